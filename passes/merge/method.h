// Methods that merge models weight by weight: what `onnxfold merge --method` offers for models of equal shapes.
//
// A method is a function of one weight's values in all models, or of a part of them. Values are doubles; the caller
// rounds once. Methods are pure: the same numbers give the same result, so that weights can be merged when the file is
// written (deferred), part by part (merge_in_parts.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/model.h"
#include "ir/result.h"
#include "passes/pass.h"

namespace onnxfold {

using Numbers = std::vector<double>;

class WeightFacts;

// One weight in all models, or a part of it.
struct MergeInput {
  std::vector<Numbers> parents;  // equal sizes; the last is the anchor
  Numbers base;                  // of the model that all parents were tuned from; empty without --base
  std::vector<double> weights;   // one a parent, as given
  std::uint64_t seed = 0;        // of --seed and the weight's name
  std::int64_t first = 0;        // of a part: where it begins in the weight
  WeightFacts* facts = nullptr;  // of a part: what the method asked to know of the whole; parts come in order then
};

// What a method must know of a whole weight before it can merge parts of it: norms, angles, thresholds.
class WeightFacts {
 public:
  virtual ~WeightFacts() = default;
  virtual void look(const MergeInput& part) = 0;  // at every part in order...
  virtual bool another_pass() { return false; }   // ...and after the last one: look at all of them once more?
};

// What all of a method's options come to, after patterns chose among them.
struct MergeSettings {
  double lambda = 1;   // factor on the merged task vector
  double density = 1;  // share of a task vector that is kept
  double t = 0.5;      // slerp: 0 is the first model, 1 the second
  bool normalize = false;
};

using MergeFunction = Result<Numbers> (*)(const MergeInput&, const MergeSettings&);

// Null for what is refused, then the method says why.
using FactsFunction = std::unique_ptr<WeightFacts> (*)(const MergeSettings&, std::size_t models, std::int64_t size);

std::unique_ptr<WeightFacts> slerp_facts(const MergeSettings& settings, std::size_t models, std::int64_t size);
std::unique_ptr<WeightFacts> ties_facts(const MergeSettings& settings, std::size_t models, std::int64_t size);
std::unique_ptr<WeightFacts> model_stock_facts(const MergeSettings& settings, std::size_t models, std::int64_t size);

Result<Numbers> average(const MergeInput& input, const MergeSettings& settings);
Result<Numbers> slerp(const MergeInput& input, const MergeSettings& settings);
Result<Numbers> task_arithmetic(const MergeInput& input, const MergeSettings& settings);
Result<Numbers> ties(const MergeInput& input, const MergeSettings& settings);
Result<Numbers> dare(const MergeInput& input, const MergeSettings& settings);
Result<Numbers> model_stock(const MergeInput& input, const MergeSettings& settings);

struct Dataset;  // analysis/calibrate/dataset.h

// A layer (or another group of neurons) of a model that was brought into the anchor's order.
struct MergeLayer {
  std::string name;
  std::string kind;      // "stream", "heads", "hidden units", "channels"
  double before = 0;     // mean similarity (cosine) of matched neurons in the order of the files...
  double after = 0;      // ...and after alignment
  double cost = 0;       // of the transport: mean distance of what goes together, 1 is the largest there is
  double sharpness = 1;  // of the transport: the largest share in a neuron, in the mean; 1: one goes to each
};

// What methods that look at whole models get. Parents correspond, have inputs of the same names, and may be changed.
struct WholeMergeInput {
  std::vector<std::unique_ptr<Model>> parents;  // the last is the anchor
  std::vector<double> weights;
  const Dataset* calibration = nullptr;  // null: weights only
  std::uint64_t seed = 0;
};
struct WholeMerge {
  std::unique_ptr<Model> merged;
  std::vector<std::unique_ptr<Model>> aligned;  // the other parents in the anchor's basis: the alpha-0 control
  std::vector<MergeLayer> layers;
  std::vector<std::string> notes;
};
using WholeMergeFunction = Result<WholeMerge> (*)(WholeMergeInput input, const PassOptions& options);

Result<WholeMerge> align(WholeMergeInput input, const PassOptions& options);
Result<WholeMerge> ot(WholeMergeInput input, const PassOptions& options);
Result<WholeMerge> permute(WholeMergeInput input, const PassOptions& options);

struct MergeMethod {
  std::string_view name;
  std::string_view summary;
  bool needs_base = false;
  bool folds_norms = false;            // wants norms without gains: fold-norm-affine runs first
  MergeFunction combine = nullptr;     // weight by weight...
  WholeMergeFunction whole = nullptr;  // ...or looking at whole models
  std::span<const OptionSpec> options;
  FactsFunction facts = nullptr;  // of `combine`; null when every element is merged by itself
  bool weighted = true;           // asks how much every model weighs
};

// In the order they are shown.
std::span<const MergeMethod> merge_methods();
const MergeMethod* find_merge_method(std::string_view name);  // null if none
const MergeMethod* find_merge_method(MergeFunction combine);  // null if none

}  // namespace onnxfold
