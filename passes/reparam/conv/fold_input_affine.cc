// Conv(BatchNormalization(x), W, b) => Conv(x, W', b')   also ConvTranspose, Gemm and MatMul, and Add, Sub, Mul, Div,
// Neg before them
//
// x * s + t per input channel: W'[o,i] = W[o,i] s[i], b'[o] = b[o] + sum of W[o,i] t[i] over channels and taps, in
// double, rounded once. Every reader of the normalized value is such a node with constant weights, right after it or
// behind nodes that only move or average positions (Transpose, Reshape, GlobalAveragePool: an average of x * s + t is
// that of x, times s, plus t); where one reads padding (and in ConvTranspose, whose outputs see different numbers of
// taps) t must be zero, because padding is not shifted. At most one MatMul gets an Add for its new bias. Factors that
// belong to a GELU or its like stay: runtimes compute the whole chain as one operator. Rounding.
#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/structure/activation.h"
#include "analysis/structure/linear.h"
#include "ir/match.h"
#include "ir/numeric.h"
#include "passes/pass.h"
#include "passes/reparam/conv/channel_affine.h"
#include "passes/reparam/conv/channel_axis.h"
#include "passes/reparam/conv/conv_node.h"
#include "passes/reparam/linear/linear_bias.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

struct Reader {
  Node* node = nullptr;
  std::optional<ConvShape> shape;  // of a convolution
  std::optional<Linear> linear;    // of a MatMul
};

bool all_zero(const std::vector<double>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double number) { return number == 0; });
}

// The nodes that read what `node` makes, when all of them can take its affine map in.
class Readers {
 public:
  Readers(const Graph& graph, const ChannelAffine& affine) : graph_(graph), affine_(affine) {}

  // None when one cannot, with the reason if it could have been expected to.
  std::vector<Reader> find(const Value& value, std::string& why) {
    follow(value, 1);
    const auto adds = std::count_if(found_.begin(), found_.end(), [&](const Reader& reader) {
      return reader.linear && !has_place_for_bias(*reader.linear) && !all_zero(affine_.shift);
    });
    if (why_.empty() && others_ && !found_.empty()) why_ = "its result has another reader";
    if (why_.empty() && adds > 1) why_ = "several products after it would need an Add";
    why = why_;
    return others_ || !why_.empty() ? std::vector<Reader>() : found_;
  }

 private:
  void follow(const Value& value, std::int64_t axis) {
    others_ = others_ || value.is_graph_output();
    for (const Use& use : value.uses()) {
      if (use.node == nullptr || use.node->graph() != &graph_ || use.index != 0 || !read(*use.node, value, axis)) {
        others_ = true;
      }
    }
  }

  bool read(Node& node, const Value& value, std::int64_t axis) {
    constexpr std::size_t kMost = 64;
    if (++visited_ > kMost) return false;
    if (const auto after = channel_axis_after(node, axis)) {
      follow(*node.output(), *after);
      return true;
    }
    if (axis == 1 && is_conv_like(node) && !node.is("AveragePool")) return read_convolution(node, value);
    const auto linear = node.is("Gemm") ? std::nullopt : linear_at(node);
    if (!linear || axis != value.rank().value_or(0) - 1 || value.rank() == 1) return false;
    if (linear->in != channels() || linear->weight->dtype() != value.dtype()) return false;
    found_.push_back({&node, std::nullopt, linear});
    return true;
  }

  bool read_convolution(Node& node, const Value& value) {
    const auto shape = conv_shape(node, why_);
    if (!shape || shape->in != channels() || node.input(1)->dtype() != value.dtype()) return false;
    if (reads_padding(shape->geometry) && !all_zero(affine_.shift)) {
      why_ = "the convolution after it reads padding, which is not shifted";
      return false;
    }
    found_.push_back({&node, shape, std::nullopt});
    return true;
  }

  std::int64_t channels() const { return static_cast<std::int64_t>(affine_.scale.size()); }

  const Graph& graph_;
  const ChannelAffine& affine_;
  std::vector<Reader> found_;
  bool others_ = false;
  std::size_t visited_ = 0;
  std::string why_;
};

// The new numbers of one reader, before anything is changed.
struct Folded {
  ConvKernel kernel;
  Matrix weight;
  std::vector<double> bias;
};

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
      const std::vector<Reader> readers = Readers(graph, *affine).find(*node->output(), why);
      if (!why.empty()) context.skipped(node->label(), why);
      if (readers.empty()) continue;
      const std::string label = node->label();
      OF_ASSIGN(const bool folded, fold(graph, *node, *affine, readers));
      if (!folded) context.skipped(label, "a weight is out of the range of its type");
      changed = changed || folded;
    }
    return changed;
  }

 private:
  static Result<bool> fold(Graph& graph, Node& node, const ChannelAffine& affine, const std::vector<Reader>& readers) {
    std::vector<Folded> folded;
    for (const Reader& reader : readers) {
      OF_ASSIGN(Folded numbers,
                reader.linear ? into(*reader.linear, affine) : into(*reader.node, *reader.shape, affine));
      if (!numbers_fit(numbers, affine.input->dtype())) return false;
      folded.push_back(std::move(numbers));
    }
    Value* normalized = node.output();
    for (std::size_t i = 0; i < readers.size(); ++i) {
      if (readers[i].linear) {
        const bool biased = !all_zero(folded[i].bias);
        OF_TRY(replace_linear(graph, *readers[i].linear, folded[i].weight, biased ? &folded[i].bias : nullptr));
        continue;
      }
      Node& conv = *readers[i].node;
      Value& input = conv.input(0) == normalized ? *affine.input : *conv.input(0);
      const OutputSpec output{conv.output()->name(), conv.output()->type()};
      const std::string hint = conv.name.empty() ? conv.output()->name() : conv.name;
      OF_ASSIGN(Node * made, insert_conv(graph, folded[i].kernel, input, output, hint, &conv));
      replace_and_erase(graph, conv, *made->output());
    }
    if (!node.erased()) replace_and_erase(graph, node, *affine.input);
    return true;
  }

  static Result<Folded> into(const Node& conv, const ConvShape& shape, const ChannelAffine& affine) {
    Folded folded;
    OF_ASSIGN(folded.kernel, conv_kernel(conv, shape));
    scale_inputs(folded.kernel, affine.scale, affine.shift);
    return folded;
  }

  static Result<Folded> into(const Linear& linear, const ChannelAffine& affine) {
    Folded folded;
    OF_ASSIGN(folded.weight, weight_matrix(linear));
    OF_ASSIGN(folded.bias, bias_vector(linear));
    for (std::int64_t row = 0; row < folded.weight.rows; ++row) {
      const auto channel = static_cast<std::size_t>(row);
      for (std::int64_t col = 0; col < folded.weight.cols; ++col) {
        folded.bias[static_cast<std::size_t>(col)] += affine.shift[channel] * folded.weight.at(row, col);
        folded.weight.at(row, col) *= affine.scale[channel];
      }
    }
    return folded;
  }

  static bool numbers_fit(const Folded& folded, DType dtype) {
    const auto finite = [dtype](double number) { return std::isfinite(round_to(dtype, number)); };
    return fits(folded.kernel, dtype) && std::all_of(folded.weight.data.begin(), folded.weight.data.end(), finite) &&
           std::all_of(folded.bias.begin(), folded.bias.end(), finite);
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_input_affine(const PassOptions&) { return std::make_unique<FoldInputAffine>(); }

}  // namespace onnxfold
