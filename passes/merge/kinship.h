// Were models tuned from one base? Then their neurons correspond as they stand.
#pragma once

#include "ir/model.h"
#include "ir/result.h"

namespace onnxfold {

// Of the matrices (and kernels, tables) of two models of one graph, each by the cosine between its numbers in both: of
// models trained from different starts it is about 0, of fine-tunes of one base close to 1 (0.98 to 1 of vision
// transformers after 300 steps).
struct Kinship {
  int compared = 0, alike = 0;  // matrices, and those with a cosine of 0.8 or more
  double cosine = 0;            // the median
  // All but a tenth are alike: a head may be new.
  bool tuned_from_one_base() const { return compared > 0 && 10 * alike >= 9 * compared; }
};

// Looks at the first 65,536 numbers of every matrix of 16 or more. REQUIRES models that correspond. Errors: those of
// correspond() and of reading.
Result<Kinship> kinship(const Model& model, const Model& anchor);

}  // namespace onnxfold
