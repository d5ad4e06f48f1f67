// Bisect: which pass of a recipe broke a check, and at which node.
#pragma once

#include <functional>
#include <string>

#include "converter/pipeline.h"
#include "converter/proof.h"
#include "converter/recipe.h"

namespace onnxfold {

struct Culprit {
  std::string pass;
  int run = 0, runs = 0;   // the run-th of `runs` passes that changed the model
  std::string divergence;  // first inner value that this pass moved; empty when no shared value parts
  std::string why;         // what failed right after it
};

std::string to_string(const Culprit& culprit);

// Runs `recipe` over a copy of `before`, keeps the model as it was after every pass that changed it (tensors are
// shared, so a copy costs its nodes), and halves the range until one pass is left whose result fails `options` while
// the model before it passes. REQUIRES: the result of the whole recipe fails. Errors: those of the pipeline and of
// prove().
Result<Culprit> bisect(const Model& before, const Recipe& recipe, const Dataset& data, const ProofOptions& options,
                       const PipelineOptions& pipeline);

}  // namespace onnxfold
