#include <algorithm>
#include <set>

#include "analysis/algebra/ridge.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/linear.h"
#include "passes/merge/repair.h"

namespace onnxfold {
namespace {

// A Linear of the merged model and its partners in the parents.
struct Matched {
  Linear merged;
  std::vector<Linear> parents;
};

Result<std::vector<Matched>> matched_linears(const Model& merged, const std::vector<const Model*>& parents) {
  std::vector<Matched> found;
  for (Linear& linear : find_linears(merged.graph())) {
    if (linear.weight->uses().size() == 1 && linear.weight_transpose == nullptr) found.push_back({linear, {}});
  }
  for (const Model* parent : parents) {
    OF_ASSIGN(const Correspondence map, correspond(parent->graph(), merged.graph()));
    for (Matched& each : found) {
      const auto other = map.first_of.find(each.merged.product->output());
      auto linear = other == map.first_of.end() ? std::nullopt : linear_at(*other->second->producer());
      if (!linear) return fail(Code::kInternal, "repair: a Linear has no partner");
      each.parents.push_back(std::move(*linear));
    }
  }
  return found;
}

}  // namespace

Result<int> repair_regmean(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                           const RepairOptions& options) {
  OF_ASSIGN(const std::vector<Matched> linears, matched_linears(merged, parents));
  std::vector<Matrix> grams(linears.size()), crosses(linears.size());
  for (std::size_t p = 0; p < parents.size(); ++p) {
    std::set<std::string> inputs;
    for (const Matched& each : linears) inputs.insert(each.parents[p].input->name());
    OF_ASSIGN(const auto statistics, collect_statistics(*parents[p], data, {inputs.begin(), inputs.end()}));
    for (std::size_t i = 0; i < linears.size(); ++i) {
      const Linear& linear = linears[i].parents[p];
      const Matrix& gram = statistics.at(linear.input->name()).gram;
      OF_ASSIGN(const Matrix weight, weight_matrix(linear));
      if (grams[i].empty()) grams[i] = Matrix(gram.rows, gram.cols);
      if (crosses[i].empty()) crosses[i] = Matrix(weight.rows, weight.cols);
      grams[i] = sum(grams[i], gram, options.weights[p]);
      crosses[i] = sum(crosses[i], product(gram, weight), options.weights[p]);
    }
  }
  for (std::size_t i = 0; i < linears.size(); ++i) {
    OF_ASSIGN(const Matrix prior, weight_matrix(linears[i].merged));
    const double damping = options.damping > 0 ? options.damping : 1e-6;
    OF_ASSIGN(const Matrix weight, ridge_solve(grams[i], crosses[i], damping, &prior));
    const auto replaced = replace_linear(merged.graph(), linears[i].merged, weight, nullptr);
    if (!replaced) return fail(replaced.error());
  }
  return static_cast<int>(linears.size());
}

}  // namespace onnxfold
