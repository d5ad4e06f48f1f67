#include "passes/merge/map_passing.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

bool is_sum(const Node& node) { return node.is("Add") || node.is("Sub"); }

// Has it no other elements than one for each channel?
bool is_vector(const Value& constant, int axis) {
  const Tensor& tensor = *parameter(&constant);
  return tensor.size() == tensor.dims()[static_cast<std::size_t>(axis)];
}

// Other operators than sums should get equal maps: the mean is theirs to the last bit.
TransportMap mean_of(const std::vector<JoinOperand>& operands, const ChannelMaps& maps) {
  TransportMap result;
  double count = 0;
  for (const JoinOperand& each : operands) {
    const TransportMap own = maps.at(each.value, each.axis);
    if (own == nullptr || own == result) continue;
    ++count;
    result = result == nullptr ? own : std::make_shared<const Matrix>(sum(*result, sum(*own, *result, -1), 1 / count));
  }
  return result;
}

}  // namespace

Status MapPassing::pass_through(const Node& node) {
  for (const Value* output : node.outputs()) {
    if (output == nullptr) continue;
    for (const ChannelPlace& place : state_.maps.places(output)) OF_TRY(pass_on(node, *output, place));
  }
  return {};
}

std::vector<JoinOperand> MapPassing::operands(const Node& node, std::size_t group) const {
  std::vector<JoinOperand> found;
  for (const Value* input : node.inputs()) {
    for (const ChannelPlace& place : state_.maps.places(input)) {
      if (place.group != group) continue;
      found.push_back({input, place.axis, parameter(input) != nullptr || constant_.count(input) != 0});
    }
  }
  return found;
}

Status MapPassing::pass_on(const Node& node, const Value& output, const ChannelPlace& place) {
  std::vector<JoinOperand> moving, followers;
  const std::vector<JoinOperand> all = operands(node, place.group);
  const bool computed = std::any_of(all.begin(), all.end(), [](const JoinOperand& each) { return !each.constant; });
  for (const JoinOperand& each : all) {
    const bool weight = parameter(each.value) != nullptr;
    // Of a convolution channel by channel the weight is of its input's neurons.
    if (weight && computed && !node.is("Concat") && (node.is("Conv") || is_vector(*each.value, each.axis))) {
      followers.push_back(each);
      continue;
    }
    if (weight) OF_TRY(map_table(*each.value, each.axis));
    // Of a table beside computed values only a sum takes the map.
    if (!computed || !each.constant || is_sum(node)) moving.push_back(each);
  }
  if (!computed) constant_.insert(&output);
  OF_ASSIGN(const TransportMap map, combined(node, moving));
  if (map == nullptr) return {};
  state_.maps.set(&output, place.axis, map);
  for (const JoinOperand& each : followers) OF_TRY(state_.weights.map(*each.value, each.axis, *map));
  return {};
}

Result<TransportMap> MapPassing::combined(const Node& node, const std::vector<JoinOperand>& operands) const {
  if (is_sum(node) && operands.size() == 2) return joins_.joined_in_order(operands[0], operands[1], state_.maps);
  return mean_of(operands, state_.maps);
}

Status MapPassing::map_table(const Value& constant, int axis) {
  if (state_.maps.at(&constant, axis) != nullptr) return {};
  OF_ASSIGN(const Weight first, state_.weights.own(constant));
  OF_ASSIGN(const Weight second, weight_of(constant));
  Matrix x = columns_along(first, axis), y = columns_along(second, axis);
  if (x.rows != y.rows) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' has different sizes in the models on axes that are no channels", constant.name()));
  }
  const bool single = x.rows == 1;
  if (state_.options.activations && !single) {
    x = standardised(x);
    y = standardised(y);
  }
  const Similarity similarity = similarity_of(x, y);
  OF_ASSIGN(const SitePlan plan,
            solve_distances(similarity, single ? distances(x.data, y.data) : distances(similarity), state_.options));
  tables_.push_back({constant.name(), "table", plan.before, plan.after, plan.cost, plan.sharpness});
  const TransportMap map = output_map(plan.plan);
  state_.maps.set(&constant, axis, map);
  constant_.insert(&constant);
  return state_.weights.map(constant, axis, *map);
}

}  // namespace onnxfold
