// HardSwish and HardSigmoid as sums, clips and products, which codes can take: the clip is where codes end, factors
// only say what codes stand for, so that one integer sum is left of HardSigmoid, and a sum and a product of HardSwish.
#pragma once

#include "passes/quantize/integer_flow.h"

namespace onnxfold {

// HardSigmoid<alpha, beta>(x) => alpha * Clip(x + beta / alpha, 0, 1 / alpha); HardSwish(x) => x * Clip(x + 3, 0, 6) /
// 6: those of the flow whose alpha is positive.
void spell_hard_activations(const IntegerFlow& flow);

// Of x * Clip(x + 3, 0, ...), which alone reads x: -3, below which every x gives 0. Minus infinity in general.
double least_that_counts(const Value& x);

}  // namespace onnxfold
