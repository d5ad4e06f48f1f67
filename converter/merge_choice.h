// What the options of a merge come to: the method with its options, and how much every model weighs.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "converter/merge.h"
#include "converter/merge_trials.h"
#include "passes/merge/method.h"

namespace onnxfold {

struct MergeChoice {
  const MergeMethod* method = nullptr;
  bool automatic = false;                    // a base was given, and no method: trials decide
  std::map<std::string, std::string> given;  // options, before defaults
  std::optional<PassOptions> method_options;
  std::vector<double> weights;  // one a source
};

// Checks all that can be told before a file is read. Errors: invalid_argument, io (data that is not there, a target
// that must not be overwritten).
Result<MergeChoice> choose_merge(const MergeOptions& options);
// Another method, with its options. Errors: those of PassOptions::parse.
Status take_trial(const MergeTrial& trial, MergeChoice& choice);

// Options of methods that go weight by weight; what a method does not have stays as it is by default.
MergeSettings merge_settings(const PassOptions& options);

double sum_of(const std::vector<double>& weights);

}  // namespace onnxfold
