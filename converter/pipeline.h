// The pipeline: runs a recipe over a model, checking the contract of every pass.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "converter/recipe.h"
#include "ir/model.h"
#include "passes/pass.h"

namespace onnxfold {

struct PassRun {
  std::string pass;
  bool changed = false;
  double seconds = 0;
  std::int64_t nodes_before = 0, nodes_after = 0;
};

struct PipelineResult {
  bool changed = false;
  int count = 0;                            // of passes in the recipe
  Exactness exactness = Exactness::kExact;  // loosest of the passes that changed something
  std::vector<PassRun> runs;
  std::vector<Remark> remarks;
};

struct PipelineOptions {
  std::uint64_t seed = 0;
  const Dataset* calibration = nullptr;  // for passes that learn from data
  int max_rounds = 32;                   // of a group run until nothing changes; reaching it is noted, not an error
  // Progress: pass `index` of `count` (from 1) is so far done, 0..1.
  std::function<void(const std::string& pass, int index, int count, double done)> on_pass;
  std::function<Status(const std::string& pass, const Model& model)> after_changed;  // --dump-after, --bisect
};

// Per pass: run, verify, compare the changed flag with the fingerprint; errors get "name (pass 3 of 5): " in front.
// Shapes are inferred before the first pass and whenever a pass changed the graph and the next needs types.
Result<PipelineResult> run_pipeline(Model& model, const Recipe& recipe, const PipelineOptions& options = {});

}  // namespace onnxfold
