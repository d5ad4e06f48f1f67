// Border(Conv1x1(x, W, b), b) => Conv1x1(x, W, b, pads)
//
// A convolution of one tap with padding gives its bias outside the map, so a border that holds the bias of each channel
// is padding of the convolution before it. DBB (arXiv 2103.13425) writes such borders behind BatchNormalization, so
// that the convolution or pool after them can be merged: merge-conv-branches and merge-conv-chain then do that. The
// border may differ from the bias by the rounding of its type (both are computed from the same normalization); nothing
// else reads the map inside. Rounding.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "passes/pass.h"
#include "passes/reparam/conv/channel_border.h"
#include "passes/reparam/conv/conv_node.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

// Does everything that reads `value`, shapes included, end in what `last` makes?
bool ends_in(const Value& value, const Node& last) {
  constexpr std::size_t kMost = 256;
  std::set<const Node*> seen{&last};
  std::vector<const Value*> open{&value};
  while (!open.empty()) {
    const Value* at = open.back();
    open.pop_back();
    for (const Use& use : at->uses()) {
      if (use.node == nullptr || use.node->graph() != last.graph()) return false;
      if (!seen.insert(use.node).second) continue;
      if (seen.size() > kMost) return false;
      for (const Value* output : use.node->outputs()) {
        if (output != nullptr) open.push_back(output);
      }
    }
  }
  return true;
}

double largest(const Numbers& numbers) {
  double found = 0;
  for (const double number : numbers) found = std::max(found, std::abs(number));
  return found;
}

// Both are sums of a few numbers as large as the largest of them, rounded in between.
bool equal_but_for_rounding(const Numbers& a, const Numbers& b, DType dtype) {
  double unit = std::numeric_limits<double>::epsilon();
  if (dtype == DType::kFloat32) unit = static_cast<double>(std::numeric_limits<float>::epsilon());
  if (dtype == DType::kFloat16) unit = std::ldexp(1.0, -10);
  if (dtype == DType::kBFloat16) unit = std::ldexp(1.0, -7);
  const double allowed = 8 * unit * std::max(largest(a), largest(b));
  for (std::size_t c = 0; c < a.size(); ++c) {
    if (!(std::abs(a[c] - b[c]) <= allowed)) return false;
  }
  return true;
}

class FoldChannelBorder final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    const std::vector<Node*> nodes = graph.nodes();
    for (auto each = nodes.rbegin(); each != nodes.rend(); ++each) {  // the outermost of a border first
      Node& node = **each;
      if (node.erased() || node.output() == nullptr || !(node.is("Concat") || may_end(node))) continue;
      const auto border = channel_border(*node.output());
      if (!border) continue;
      OF_ASSIGN(const std::string why, fold(graph, node, *border));
      if (!why.empty()) context.skipped(node.label(), why);
      changed = changed || why.empty();
    }
    return changed;
  }

 private:
  static bool may_end(const Node& node) { return node.is("ScatterND") || node.is("Transpose"); }

  // Why not, or nothing when it was folded.
  static Result<std::string> fold(Graph& graph, Node& node, const ChannelBorder& border) {
    Node* conv = border.inner->producer();
    std::string why;
    if (conv == nullptr || !conv->is("Conv") || conv->graph() != &graph) return std::string("no convolution inside");
    auto shape = conv_shape(*conv, why);
    if (!shape) return why;
    if (!shape->geometry.pointwise()) return std::string("the convolution inside has more than one tap");
    if (conv->input(0)->dtype() != border.inner->dtype()) return std::string("types differ");
    if (shape->geometry.axes.size() != border.begin.size()) return std::string("its rank is another");
    if (!ends_in(*border.inner, node)) return std::string("the map inside the border has another reader");
    OF_ASSIGN(ConvKernel kernel, conv_kernel(*conv, *shape));
    if (!equal_but_for_rounding(kernel.bias, border.numbers, border.inner->dtype()))
      return std::string("the border is not what the convolution inside gives for zeros");
    for (std::size_t i = 0; i < border.begin.size(); ++i) {
      kernel.shape.geometry.axes[i].begin = border.begin[i];
      kernel.shape.geometry.axes[i].end = border.end[i];
    }
    const OutputSpec output{node.output()->name(), node.output()->type()};
    const std::string hint = conv->name.empty() ? node.output()->name() : conv->name;
    OF_ASSIGN(Node * padded, insert_conv(graph, kernel, *conv->input(0), output, graph.unique_name(hint), &node));
    replace_and_erase(graph, node, *padded->output());
    return std::string();
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_channel_border(const PassOptions&) { return std::make_unique<FoldChannelBorder>(); }

}  // namespace onnxfold
