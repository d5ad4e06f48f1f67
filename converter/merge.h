// The verb `merge`: several models of one architecture into one, with the controls that show what it is worth.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "converter/report.h"
#include "formats/onnx/onnx_file.h"

namespace onnxfold {

// Other weights (and options) for the weights whose names, or whose nodes' names, match a glob.
struct MergePattern {
  std::string pattern;
  std::vector<double> weights;                 // one a model; empty: as for the others
  std::map<std::string, std::string> options;  // of the method
};

struct MergeOptions {
  std::vector<std::string> sources;  // two or more; the last is the anchor, whose graph and names the result has
  std::string base;                  // what all were tuned from, for methods on task vectors
  std::string target;
  std::string method;  // empty: by trial with a base (merge_trials.h), align with calibration data, average without
  std::map<std::string, std::string> options;
  std::vector<double> weights;  // one a source; empty: equal
  std::vector<MergePattern> patterns;
  std::string data, calibration;  // as in CompressOptions; calibration empty: the inputs of `data`
  Gates gates;                    // measured against the better parent; empty: only NaN and shapes
  std::uint64_t seed = 0;
  std::int64_t max_samples = 0, calibration_samples = 0;
  bool check = true;  // score parents, controls and the result
  bool dry_run = false, keep_failed = false;
  SaveOptions save;
  std::function<void(const std::string& phase, double done)> progress;
};

// A merge as mergekit users write it:
//
//   merge_method: ties
//   base_model: base.onnx
//   models:
//     - {model: a.onnx, parameters: {weight: 0.5}}
//     - {model: b.onnx, parameters: {weight: [{filter: "*mlp*", value: 0.2}, {value: 0.5}]}}
//   parameters: {density: 0.5}
//
// Paths are relative to the file. Fills sources, base, method, options, weights and patterns. Errors: io;
// invalid_argument, naming file and line or the key that is not known.
Status read_merge_recipe(const std::string& path, MergeOptions& options);

// Errors: those of loading and saving; invalid_argument when models do not correspond, counts are wrong or data is
// missing. A failed gate is no error: the report says so and nothing is written (unless keep_failed).
Result<Report> merge_models(const MergeOptions& options);

}  // namespace onnxfold
