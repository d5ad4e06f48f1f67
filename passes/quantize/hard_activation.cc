#include "passes/quantize/hard_activation.h"

#include <limits>
#include <string>

#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class Spelling {
 public:
  explicit Spelling(Node& node) : graph_(*node.graph()), node_(node), stem_(node.output()->name()) {}

  Value* clipped_sum(double addend, double most) {
    Value* sum = add("Add", {node_.input(0), number(addend, "_addend")}, "_sum");
    return add("Clip", {sum, number(0, "_least"), number(most, "_most")}, "_clipped");
  }

  Value* times(Value* a, Value* b) { return add("Mul", {a, b}, "_product"); }
  Value* scaled(Value* x, double factor) { return add("Mul", {x, number(factor, "_factor")}, ""); }
  Value* divided(Value* x, double divisor) { return add("Div", {x, number(divisor, "_divisor")}, ""); }

 private:
  Value* add(const char* op, std::vector<Value*> inputs, const char* ending) {
    return graph_.insert({op, std::move(inputs), {{stem_ + ending, node_.output()->type()}}, {}, "", ""}, &node_)
        ->output();
  }
  Value* number(double x, const char* ending) {
    return add_constant(graph_, Tensor::scalar(static_cast<float>(x)), stem_ + ending);
  }

  Graph& graph_;
  Node& node_;
  std::string stem_;
};

}  // namespace

void spell_hard_activations(const IntegerFlow& flow) {
  for (const FlowNode& made : flow.nodes) {
    Node& node = *made.node;
    Spelling spelling(node);
    Value* result = nullptr;
    if (node.is("HardSwish")) {
      result = spelling.divided(spelling.times(node.input(0), spelling.clipped_sum(3, 6)), 6);
    } else if (node.is("HardSigmoid")) {
      const double alpha = node.attr_float("alpha", 0.2F), beta = node.attr_float("beta", 0.5F);
      if (!(alpha > 0)) continue;
      result = spelling.scaled(spelling.clipped_sum(beta / alpha, 1 / alpha), alpha);
    } else {
      continue;
    }
    replace_and_erase(*node.graph(), node, *result);
  }
}

double least_that_counts(const Value& x) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  if (x.uses().size() != 2) return kNone;
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    const Node *sum = x.uses()[i].node, *product = x.uses()[1 - i].node;
    if (sum == nullptr || product == nullptr || !sum->is("Add") || !product->is("Mul")) continue;
    const auto addend = scalar_constant(sum->input(sum->input(0) == &x ? 1 : 0));
    if (!addend) continue;
    for (const RoundedResult& result : rounded_results(*sum->output())) {
      const bool meets = product->input(0) == result.end || product->input(1) == result.end;
      if (meets && result.clip && result.clip->low == 0 && result.shift == 0) return -*addend;
    }
  }
  return kNone;
}

}  // namespace onnxfold
