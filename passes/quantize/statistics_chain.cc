#include "passes/quantize/statistics_chain.h"

#include <algorithm>
#include <set>

#include "ir/match.h"

namespace onnxfold {
namespace {

const std::set<std::string, std::less<>> kReductions = {"ReduceL1",   "ReduceL2",   "ReduceLogSum", "ReduceLogSumExp",
                                                        "ReduceMean", "ReduceProd", "ReduceSum",    "ReduceSumSquare"};
const std::set<std::string, std::less<>> kArithmetic = {"Abs", "Add", "Clip", "Div", "Log",        "Max", "Min",
                                                        "Mul", "Neg", "Pow",  "Sub", "Reciprocal", "Sqrt"};
const std::set<std::string, std::less<>> kMoves = {"Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"};

bool is_one_of(const Node& node, const std::set<std::string, std::less<>>& operators) {
  return node.domain().empty() && operators.contains(node.op_type());
}

// Shapes and axes do not count.
bool counts(const Value* input) {
  return input != nullptr && constant(input) == nullptr && input->dtype() == DType::kFloat32;
}

bool reads_only(const Node& node, const std::set<const Value*>& statistics) {
  bool any = false;
  for (const Value* input : node.inputs()) {
    if (!counts(input)) continue;
    if (!statistics.contains(input)) return false;
    any = true;
  }
  return any;
}

bool only_reduced(const Node& node) {
  const Value& product = *node.output();
  return !product.is_graph_output() && !product.uses().empty() &&
         std::all_of(product.uses().begin(), product.uses().end(),
                     [](const Use& use) { return use.node != nullptr && is_one_of(*use.node, kReductions); });
}

}  // namespace

std::map<const Node*, std::string> statistics_chains(const std::vector<Node*>& nodes) {
  std::map<const Node*, std::string> kept;
  std::set<const Value*> statistics;
  for (const Node* node : nodes) {
    if (node->outputs().empty() || node->output() == nullptr) continue;
    const bool follows = is_one_of(*node, kArithmetic) || is_one_of(*node, kMoves);
    if (is_one_of(*node, kReductions) || (follows && reads_only(*node, statistics))) {
      statistics.insert(node->output());
      if (is_one_of(*node, kArithmetic)) kept[node] = "arithmetic on sums and means";
    }
    if (node->is("Mul") && only_reduced(*node)) kept[node] = "products that are summed up";
  }
  return kept;
}

}  // namespace onnxfold
