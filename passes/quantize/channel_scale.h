// Places where channels of a value can be rescaled exactly: divided where they are made, multiplied back in the weights
// that read them. What SmoothQuant and AWQ fold their factors into.
//
// The value is made by a norm (gain and bias are divided), by a Linear (its columns and bias are divided), directly or
// through Relu or LeakyRelu, or as a factor of a Mul, or by attention from its value projection; and only Linears read
// it. Reshape and what else moves whole rows may stand between. Weights that something else reads as well are left
// alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/structure/attention.h"
#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"
#include "passes/pass.h"

namespace onnxfold {

struct ScaleSite {
  Value* value = nullptr;
  std::vector<Linear> readers;
  std::optional<Norm> norm;           // what makes the value: this...
  std::optional<Linear> earlier;      // ...or this
  std::vector<std::int64_t> columns;  // of `earlier`, by channel of the value; channels of one column (heads of grouped
                                      // queries) share a factor

  std::int64_t channels() const { return readers.front().in; }
};

class ScaleSites {
 public:
  // Attention is looked for once. `graph` must not change but through apply().
  explicit ScaleSites(Graph& graph);
  // In topological order of the values. `context` (may be null) gets a remark for norms that something else reads.
  std::vector<ScaleSite> find(PassContext* context) const;
  // The site of one value as the graph is now.
  std::optional<ScaleSite> at(Value& value) const;

  // Divides the value by `factors`, one a channel; those of one column must be equal. Rounded once. Errors: whatever
  // loading the weights reports.
  Status apply(const ScaleSite& site, const std::vector<double>& factors);

 private:
  std::optional<ScaleSite> behind_norm(const Norm& norm) const;
  std::optional<ScaleSite> behind_linear(Value& value) const;
  std::optional<ScaleSite> behind_attention(const Attention& attention) const;

  Graph& graph_;
  // Names of the products: the Linears are found anew, since weights change.
  std::vector<Attention> attentions_;
};

// Channels that share a column get the largest of their numbers.
void share_by_column(const ScaleSite& site, std::vector<double>& numbers);

}  // namespace onnxfold
