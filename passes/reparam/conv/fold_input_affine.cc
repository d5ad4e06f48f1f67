// Conv(BatchNormalization(x), W, b) => Conv(x, W', b')   also ConvTranspose and Gemm, and Add, Sub, Mul, Div, Neg
// before them
//
// x * s + t per input channel: W'[o,i] = W[o,i] s[i], b'[o] = b[o] + sum of W[o,i] t[i] over channels and taps, in
// double, rounded once. Every reader of the normalized value is such a node with constant weights; where one reads
// padding (and in ConvTranspose, whose outputs see different numbers of taps) t must be zero, because padding is not
// shifted. Factors that belong to a GELU or its like stay: runtimes compute the whole chain as one operator. Rounding.
#include <algorithm>
#include <set>

#include "analysis/structure/activation.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/conv/channel_affine.h"
#include "passes/reparam/conv/conv_node.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

struct Reader {
  Node* node = nullptr;
  ConvShape shape;
};

bool all_zero(const std::vector<double>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double number) { return number == 0; });
}

// The nodes that read `value`, when all of them can take the affine map in; otherwise none, with the reason if one
// could have been expected to.
std::vector<Reader> readers_of(const Graph& graph, const Value& value, const ChannelAffine& affine, std::string& why) {
  std::vector<Reader> readers;
  bool others = value.is_graph_output();
  for (const Use& use : value.uses()) {
    Node* node = use.node;
    const bool reads = node != nullptr && node->graph() == &graph && use.index == 0 && is_conv_like(*node);
    if (!reads || node->is("AveragePool")) {
      others = true;
      continue;
    }
    const auto shape = conv_shape(*node, why);
    if (!shape || shape->in != static_cast<std::int64_t>(affine.scale.size())) return {};
    if (node->input(1)->dtype() != value.dtype()) return {};
    if (reads_padding(shape->geometry) && !all_zero(affine.shift)) {
      why = "the convolution after it reads padding, which is not shifted";
      return {};
    }
    readers.push_back({node, *shape});
  }
  if (!others) return readers;
  if (!readers.empty()) why = "its result has another reader";
  return {};
}

class FoldInputAffine final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    std::set<const Node*> activations;
    for (const ActivationMatch& activation : find_activations(graph)) {
      activations.insert(activation.nodes.begin(), activation.nodes.end());
    }
    const std::vector<Node*> nodes = graph.nodes();
    for (auto each = nodes.rbegin(); each != nodes.rend(); ++each) {  // the last of a chain first
      Node* node = *each;
      const bool skip = node->erased() || activations.count(node) != 0;
      const auto affine = skip ? std::nullopt : channel_affine(*node);
      if (!affine) continue;
      std::string why;
      const std::vector<Reader> readers = readers_of(graph, *node->output(), *affine, why);
      if (!why.empty()) context.skipped(node->label(), why);
      if (readers.empty()) continue;
      OF_ASSIGN(const bool folded, fold(graph, *affine, readers));
      if (!folded) context.skipped(node->label(), "a weight is out of the range of its type");
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, const ChannelAffine& affine, const std::vector<Reader>& readers) {
    std::vector<ConvKernel> kernels;
    for (const Reader& reader : readers) {
      OF_ASSIGN(ConvKernel kernel, conv_kernel(*reader.node, reader.shape));
      scale_inputs(kernel, affine.scale, affine.shift);
      if (!fits(kernel, affine.input->dtype())) return false;
      kernels.push_back(std::move(kernel));
    }
    for (std::size_t i = 0; i < readers.size(); ++i) {
      Node& node = *readers[i].node;
      const OutputSpec output{node.output()->name(), node.output()->type()};
      const std::string hint = node.name.empty() ? node.output()->name() : node.name;
      OF_ASSIGN(Node * conv, insert_conv(graph, kernels[i], *affine.input, output, hint, &node));
      replace_and_erase(graph, node, *conv->output());
    }
    return true;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_input_affine(const PassOptions&) { return std::make_unique<FoldInputAffine>(); }

}  // namespace onnxfold
