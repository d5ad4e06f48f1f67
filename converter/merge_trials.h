// Fine-tunes of one base, and no method named: which methods on differences to
// the base are tried, and which is taken.
//
// Labels decide: among methods on differences by all of them; then between the
// best of these and `align` with its repair, which is fitted to one half of the
// batches, by those of the other half (where parents know different classes,
// the ensemble is by far the best teacher). Without labels nothing told the
// better method on pairs of tuned vision transformers: KL to the parents'
// ensemble, entropy, and KL to the more certain parent chose settings 6 to 27
// points worse than the best, while the first trial was at most two points
// behind the best method on differences (docs/merge.md): it is taken as it is.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "passes/merge/method.h"

namespace onnxfold {

struct MergeTrial {
  std::string method;
  std::map<std::string, std::string> options;

  std::string text() const;  // as --method takes it
};

// The one that is taken where nothing can be told.
const MergeTrial& first_trial();

struct TrialChoice {
  MergeTrial trial;
  std::string note;  // what was tried and how it did, or why nothing was
};

// `fitted`: data for methods that are fitted to some, null for others.
using MakeTrial = std::function<Result<std::unique_ptr<Model>>(const MergeTrial&, const Dataset* fitted)>;

// `data` is null when there is none; labels in it count. Errors: those of
// `make` and of running.
Result<TrialChoice> choose_trial(const std::vector<const Model*>& parents, const Dataset* data, const MakeTrial& make);

}  // namespace onnxfold
