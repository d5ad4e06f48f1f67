// The number that a rounded constant stands for.
#pragma once

#include "ir/dtype.h"

namespace onnxfold {

// Formulas are exported with their constants rounded to float32 or float16: 1.4142135 for the square root of 2. When
// `value` is the number of that type nearest to one that such formulas use, that one; otherwise `value` itself. The
// numbers: square and fourth roots of whole numbers up to 4096 and their reciprocals (GELU, scales of attention),
// sqrt(2/pi), 0.044715 and their product (tanh GELU), 1/6 (HardSwish). What is returned always rounds to `value`.
double intended_number(float value, DType rounded_to = DType::kFloat32);

}  // namespace onnxfold
