// Conv(Conv(x, W1, b1), W2, b2) => Conv(x, W, b)   either may be an AveragePool that counts its pads
//
// W[o,i] = sum over m of W2[o,m] convolved with W1[m,i], b = b2 + sum over m and taps of W2[o,m] b1[m], in double,
// rounded once; strides multiply, fewer groups stand for more. Nothing else reads the inner map. The second reads no
// padding, or the first has one tap and no bias (else its padding would not be zero). Only where neither the
// multiply-adds nor the weights become more. Rounding.
#include "passes/pass.h"
#include "passes/reparam/conv/conv_chain.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class MergeConvChain final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased()) continue;
      OF_ASSIGN(const bool merged, merge(graph, *node, context));
      changed = changed || merged;
    }
    return changed;
  }

 private:
  static Result<bool> merge(Graph& graph, Node& node, PassContext& context) {
    std::string why;
    const auto chain = conv_chain(node, why);
    if (!chain) {
      if (!why.empty()) context.skipped(node.label(), why);
      return false;
    }
    if (node.is("Gemm") || (chain->first->is("AveragePool") && node.is("AveragePool"))) return false;
    if (chain->shape.work() > chain->work() || chain->shape.work() > chain->weights()) {
      context.skipped(node.label(), "one convolution would be more work than the two");
      return false;
    }
    OF_ASSIGN(const ConvKernel kernel, conv_kernel(*chain));
    Value& input = *chain->first->input(0);
    if (!fits(kernel, input.dtype())) {
      context.skipped(node.label(), "a merged weight is out of the range of its type");
      return false;
    }
    const OutputSpec output{node.output()->name(), node.output()->type()};
    const std::string hint = node.name.empty() ? node.output()->name() : node.name;
    OF_ASSIGN(Node * conv, insert_conv(graph, kernel, input, output, hint, &node));
    return replace_and_erase(graph, node, *conv->output());
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_conv_chain(const PassOptions&) { return std::make_unique<MergeConvChain>(); }

}  // namespace onnxfold
