#include "passes/merge/received_weights.h"

#include "passes/merge/weight_plans.h"

namespace onnxfold {

Result<Matrix> ReceivedWeights::of(const Linear& linear) {
  const auto known = known_.find(linear.product);
  if (known != known_.end()) return known->second;
  if (linear.input->producer() != nullptr) OF_TRY(reach_(*linear.input->producer()));
  OF_TRY(order_queries_by_weights(
      *linear.product, [this](const SitePart& part) { return of(part); }, state_.sites));
  OF_ASSIGN(Matrix weight, weight_matrix(*partner(state_.partners, linear)));
  TransportMap map = state_.maps.at_last_axis(linear.input);
  const auto behind = state_.sites.inputs.find(linear.product);
  if (behind != state_.sites.inputs.end()) {
    const SiteColumns& columns = behind->second;
    weight = reordered_rows(weight, columns.first);
    const TransportSite& site = state_.sites.sites[columns.site];
    OF_ASSIGN(const SitePlan* const own, plan(columns.site));
    map = repeated_by_head(output_map(own->plan), site.first_heads, site.second_heads, columns.repeats);
  }
  if (map != nullptr && map->rows == weight.rows) weight = product(input_map(*map), weight, true);
  return known_[linear.product] = std::move(weight);
}

Result<std::pair<Matrix, Matrix>> ReceivedWeights::of(const SitePart& part) {
  if (const auto linear = linear_at(*part.maker)) {
    OF_ASSIGN(const Matrix first, of(*linear));
    OF_ASSIGN(const Matrix second, weight_matrix(*linear));
    return std::pair(chosen_columns(first, part.first_columns), chosen_columns(second, part.second_columns));
  }
  const bool table = part.maker->is("Gather");
  const Value& weight = *part.maker->input(table ? 0 : 1);
  OF_ASSIGN(Weight first, state_.weights.own(weight));
  OF_ASSIGN(const Weight second, weight_of(weight));
  if (!table) {
    const TransportMap map = state_.maps.at(part.maker->input(0), 1);
    if (map != nullptr) first = mapped(first, 1, input_map(*map));
  }
  const int axis = table ? static_cast<int>(second.dims.size()) - 1 : 0;
  return std::pair(columns_along(first, axis), columns_along(second, axis));
}

Result<const SitePlan*> ReceivedWeights::plan(std::size_t site) {
  if (!state_.plans[site]) {
    OF_TRY(plan_from_weights(
        site, state_.sites, state_.options, [this](const SitePart& part) { return of(part); }, state_.plans));
  }
  return &*state_.plans[site];
}

}  // namespace onnxfold
