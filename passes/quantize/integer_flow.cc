#include "passes/quantize/integer_flow.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "ir/match.h"
#include "passes/quantize/activation_range.h"

namespace onnxfold {
namespace {

constexpr double kMostConstantError = 0.01;

bool holds_zero(const Node& clip) {
  const auto bounds = clip_bounds(clip);
  return bounds && !(bounds->low > 0) && !(bounds->high <= 0);
}

bool is_pool(const Node& node) { return node.is("MaxPool") || node.is("AveragePool") || node.is("GlobalAveragePool"); }

bool any_dilation(const Node& node) {
  const auto dilations = node.attr_ints("dilations");
  return dilations && std::any_of(dilations->begin(), dilations->end(), [](std::int64_t d) { return d != 1; });
}

bool is_one_of(const Node& node, std::initializer_list<std::string_view> names) {
  return node.domain().empty() && std::find(names.begin(), names.end(), node.op_type()) != names.end();
}

bool only_first_result(const Node& node) {
  for (std::size_t i = 1; i < node.outputs().size(); ++i) {
    if (node.output(i) != nullptr && !node.output(i)->uses().empty()) return false;
  }
  return true;
}

// As part of a flow, by its kind alone.
std::optional<FlowNode> flow_node(Node& node) {
  FlowNode made{&node, {0}, false};
  if (is_one_of(node, {"Add", "Mul"})) {
    made.operands = {0, 1};
  } else if (node.is("Where")) {
    made.operands = {1, 2};
  } else if (node.is("Concat")) {
    for (std::size_t i = 1; i < node.inputs().size(); ++i) made.operands.push_back(i);
  } else if (is_one_of(node, {"GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax", "Relu", "Clip", "HardSwish",
                              "HardSigmoid"})) {
    if (node.is("Clip") && !holds_zero(node)) return {};
  } else if (node.is("AveragePool")) {
    if (any_dilation(node)) return {};
  } else if (is_one_of(node, {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather",
                              "Expand", "Tile", "DepthToSpace", "Split", "Resize"})) {
    made.moves = true;
    if (node.is("MaxPool") && !only_first_result(node)) return {};
    // Interpolation of codes would be cut off, not rounded.
    if (node.is("Resize") && node.attr_string("mode", "nearest") != "nearest") return {};
  } else {
    return {};
  }
  for (const Value* output : node.outputs()) {
    if (output != nullptr && output->dtype() != DType::kFloat32) return {};
  }
  return made;
}

// Do 256 levels between its least and largest number change it by little?
bool survives_rounding(const Tensor& tensor) {
  if (tensor.dtype() != DType::kFloat32 || tensor.size() == 0) return false;
  const auto numbers = to_floats(tensor);
  if (!numbers) return false;
  double low = 0, high = 0, energy = 0, error = 0;
  for (const float x : *numbers) {
    if (!std::isfinite(x)) return false;
    low = std::min(low, static_cast<double>(x));
    high = std::max(high, static_cast<double>(x));
  }
  const Uint8Grid grid = uint8_grid({low, high});
  for (const float x : *numbers) {
    const double code = std::clamp(std::nearbyint(static_cast<double>(x) / grid.scale) + grid.zero, 0.0, 255.0);
    const double back = (code - grid.zero) * static_cast<double>(grid.scale);
    energy += static_cast<double>(x) * x;
    error += (x - back) * (x - back);
  }
  return error <= kMostConstantError * kMostConstantError * energy;
}

class FlowFinder {
 public:
  FlowFinder(const std::vector<Int8Target>& targets, const GridsByName* grids) : grids_(grids) {
    for (const Int8Target& target : targets) {
      targets_.insert(target.node);
      if (target.node->is("Conv")) add_result(*target.node->output());
    }
  }

  IntegerFlow find(const Graph& graph) {
    std::vector<FlowNode> reached;
    for (Node* node : graph.nodes()) {
      if (absorbed_.contains(node)) continue;
      auto made = flow_node(*node);
      if (!made || !can_read(*made)) continue;
      if (made->moves) {
        for (const Value* output : node->outputs()) {
          if (output != nullptr) rounded_.insert(output);
        }
      } else if (!add_result(*node->output())) {
        continue;
      }
      reached.push_back(std::move(*made));
    }
    return {needed(reached), std::move(results_)};
  }

 private:
  bool known(const Value& value) const { return grids_ == nullptr || grids_->contains(value.name()); }

  bool suits(const RoundedResult& result) const {
    if (grids_ == nullptr) return true;
    const auto seen = grids_->find(result.end->name());
    return seen != grids_->end() && rounded_grids(result, seen->second);
  }

  // False where no range of the result is known.
  bool add_result(Value& value) {
    for (RoundedResult& result : rounded_results(value)) {
      if (!suits(result)) continue;
      absorbed_.insert(result.nodes.begin(), result.nodes.end());
      rounded_.insert(result.end);
      results_[&value] = std::move(result);
      return true;
    }
    return false;
  }

  bool can_read(const FlowNode& made) const {
    bool any = false;
    for (const std::size_t i : made.operands) {
      const Value* operand = made.node->input(i);
      if (operand == nullptr) return false;
      if (rounded_.contains(operand)) {
        any = true;
      } else if (const Tensor* tensor = constant(operand)) {
        if (!survives_rounding(*tensor)) return false;
      } else if (operand->dtype() != DType::kFloat32 || !known(*operand)) {
        return false;
      }
    }
    return any;
  }

  std::vector<FlowNode> needed(const std::vector<FlowNode>& reached) const {
    std::vector<FlowNode> kept;
    std::set<const Value*> wanted;  // looked up only
    for (auto made = reached.rbegin(); made != reached.rend(); ++made) {
      if (!is_pool(*made->node) && !joins_codes(*made) && !is_read(*made, wanted)) continue;
      for (const std::size_t i : made->operands) wanted.insert(made->node->input(i));
      kept.push_back(*made);
    }
    std::reverse(kept.begin(), kept.end());
    return kept;
  }

  // A join of results that are codes already moves a quarter of the bytes, whoever reads it.
  bool joins_codes(const FlowNode& made) const {
    return made.node->is("Concat") && std::all_of(made.operands.begin(), made.operands.end(), [&](std::size_t i) {
             return rounded_.contains(made.node->input(i));
           });
  }

  bool is_read(const FlowNode& made, const std::set<const Value*>& wanted) const {
    for (Value* output : made.node->outputs()) {
      if (output == nullptr) continue;
      const Value* result = made.moves ? output : results_.at(output).end;
      if (wanted.contains(result)) return true;
      for (const Use& use : result->uses()) {
        if (use.node != nullptr && use.index == 0 && targets_.contains(use.node)) return true;
      }
    }
    return false;
  }

  const GridsByName* grids_;
  std::set<const Node*> targets_, absorbed_;  // looked up only
  std::set<const Value*> rounded_;            // looked up only
  std::map<const Value*, RoundedResult> results_;
};

}  // namespace

IntegerFlow find_integer_flow(const Graph& graph, const std::vector<Int8Target>& targets, const GridsByName* grids) {
  return FlowFinder(targets, grids).find(graph);
}

}  // namespace onnxfold
