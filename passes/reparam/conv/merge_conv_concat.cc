// Concat(f(Conv(x, W1)), f(Conv(x, W2)), z) => Concat(f(Conv(x, [W1; W2])), z)   also ConvTranspose and Gemm; f may be
// absent
//
// Neighbouring inputs of a Concat of channels that convolve the same value, in one group each, with output positions
// that agree for every size of image (passes/reparam/conv/conv_geometry.h), whose results nothing else reads; f is one
// operator without state, the same with the same attributes on all. Kernels of other sizes are filled up with zeros
// where that adds at most max-extra-work multiply-adds per output element. Rounding.
#include <algorithm>
#include <array>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/conv/conv_node.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// One input of the Concat.
struct Piece {
  Node* conv = nullptr;  // null: something else
  Node* activation = nullptr;
  ConvShape shape;
};

// Neighbours that one convolution computes.
struct Run {
  std::vector<Piece> pieces;
  ConvGeometry geometry;
  std::int64_t work = 0, out = 0;
};

bool is_activation(const Node& node) {
  constexpr std::array<std::string_view, 18> kNames{
      "Relu",     "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu",  "Selu", "Celu",
      "Softplus", "Softsign",  "Gelu",    "Mish", "Abs",         "Exp",       "Sqrt", "Erf",  "ThresholdedRelu"};
  return node.domain().empty() && std::find(kNames.begin(), kNames.end(), node.op_type()) != kNames.end() &&
         node.inputs().size() == 1 && node.outputs().size() == 1;
}

bool same_attributes(const Node& a, const Node& b) {
  if (a.attributes().size() != b.attributes().size()) return false;
  return std::all_of(a.attributes().begin(), a.attributes().end(), [&](const Attribute& left) {
    const Attribute* right = b.attribute(left.name);
    if (right == nullptr || left.value.index() != right->value.index()) return false;
    if (const auto* number = std::get_if<float>(&left.value)) return *number == std::get<float>(right->value);
    if (const auto* number = std::get_if<std::int64_t>(&left.value))
      return *number == std::get<std::int64_t>(right->value);
    if (const auto* text = std::get_if<std::string>(&left.value)) return *text == std::get<std::string>(right->value);
    return false;
  });
}

bool same_function(const Node* a, const Node* b) {
  if (a == nullptr || b == nullptr) return a == b;
  return a->op_type() == b->op_type() && same_attributes(*a, *b);
}

Piece piece_of(const Graph& graph, const Value& value) {
  Piece piece;
  Node* node = sole_consumer(&value) != nullptr ? value.producer() : nullptr;
  if (node != nullptr && node->graph() == &graph && is_activation(*node)) {
    piece.activation = node;
    node = sole_consumer(node->input(0)) != nullptr ? node->input(0)->producer() : nullptr;
  }
  if (node == nullptr || node->graph() != &graph || !is_conv_like(*node) || node->is("AveragePool")) return {};
  std::string why;
  const auto shape = conv_shape(*node, why);
  if (!shape || shape->groups != 1 || node->input(1)->dtype() != node->input(0)->dtype()) return {};
  piece.conv = node;
  piece.shape = *shape;
  return piece;
}

class Runs {
 public:
  Runs(const Graph& graph, const Node& concat, std::int64_t extra_work) : extra_work_(extra_work) {
    for (const Value* input : concat.inputs()) add(piece_of(graph, *input));
  }
  const std::vector<Run>& all() const { return runs_; }
  bool gain() const {
    return std::any_of(runs_.begin(), runs_.end(), [](const Run& run) { return run.pieces.size() > 1; });
  }

 private:
  void add(const Piece& piece) {
    if (!runs_.empty() && extend(runs_.back(), piece)) return;
    runs_.push_back({{piece}, piece.shape.geometry, piece.shape.work(), piece.shape.out});
  }

  bool extend(Run& run, const Piece& piece) const {
    const Piece& first = run.pieces.front();
    if (piece.conv == nullptr || first.conv == nullptr || piece.shape.in != first.shape.in) return false;
    Value* input = first.conv->input(0);
    if (piece.conv->input(0) != input || piece.conv->op_type() != first.conv->op_type()) return false;
    if (!same_function(piece.activation, first.activation)) return false;
    const auto joint = joint_geometry(run.geometry, piece.shape.geometry, spatial_lengths(*input));
    if (!joint) return false;
    const std::int64_t out = run.out + piece.shape.out;
    const std::int64_t work = ConvShape{*joint, 1, first.shape.in, out}.work();
    if (work > run.work + piece.shape.work() + extra_work_ * out) return false;
    run.pieces.push_back(piece);
    run.geometry = *joint;
    run.work += piece.shape.work();
    run.out = out;
    return true;
  }

  std::int64_t extra_work_;
  std::vector<Run> runs_;
};

Result<ConvKernel> kernel_of(const Run& run) {
  ConvKernel result;
  for (const Piece& piece : run.pieces) {
    OF_ASSIGN(const ConvKernel part, conv_kernel(*piece.conv, piece.shape));
    ConvKernel whole = zero_kernel({run.geometry, 1, part.shape.in, part.shape.out});
    add_kernel(whole, part, std::vector<double>(static_cast<std::size_t>(part.shape.out), 1.0));
    result = result.weight.empty() ? std::move(whole) : stacked_kernel(result, whole);
  }
  return result;
}

class Rewrite {
 public:
  Rewrite(Graph& graph, Node& concat) : graph_(graph), concat_(concat) {}

  Result<bool> run(const std::vector<Run>& runs) {
    std::vector<ConvKernel> kernels(runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (runs[i].pieces.size() < 2) continue;
      OF_ASSIGN(kernels[i], kernel_of(runs[i]));
      if (!fits(kernels[i], concat_.output()->dtype())) return false;
    }
    std::vector<Value*> inputs;
    std::size_t position = 0;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      Value* input = concat_.input(position);
      position += runs[i].pieces.size();
      if (runs[i].pieces.size() > 1) {
        OF_ASSIGN(input, merged(runs[i], kernels[i]));
      }
      inputs.push_back(input);
    }
    if (inputs.size() == 1) return replace_and_erase(graph_, concat_, *inputs.front());
    Node* shorter = graph_.insert({.op_type = "Concat",
                                   .inputs = std::move(inputs),
                                   .outputs = {{concat_.output()->name(), concat_.output()->type()}},
                                   .attributes = {},
                                   .domain = "",
                                   .name = concat_.name},
                                  &concat_);
    shorter->set_attribute("axis", std::int64_t{1});
    return replace_and_erase(graph_, concat_, *shorter->output());
  }

 private:
  Result<Value*> merged(const Run& run, const ConvKernel& kernel) {
    const Piece& first = run.pieces.front();
    Type type = first.conv->output()->type();
    if (type.shape && type.shape->size() > 1) (*type.shape)[1] = Dim{run.out, "", ""};
    const std::string hint = concat_.output()->name() + "_merged";
    OF_ASSIGN(Node * conv,
              insert_conv(graph_, kernel, *first.conv->input(0), {hint, type}, graph_.unique_name(hint), &concat_));
    if (first.activation == nullptr) return conv->output();
    Node* activation = graph_.insert({.op_type = first.activation->op_type(),
                                      .inputs = {conv->output()},
                                      .outputs = {{hint, type}},
                                      .attributes = {},
                                      .domain = "",
                                      .name = graph_.unique_name(hint)},
                                     &concat_);
    for (const Attribute& attribute : first.activation->attributes()) {
      activation->set_attribute(attribute.name, attribute.copy().value);
    }
    return activation->output();
  }

  Graph& graph_;
  Node& concat_;
};

class MergeConvConcat final : public Pass {
 public:
  explicit MergeConvConcat(const PassOptions& options) : extra_work_(options.integer("max-extra-work")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Concat")) {
      const auto rank = node->output()->rank();
      const std::int64_t axis = node->attr_int("axis", 1);
      if (!rank || *rank < 2 || (axis < 0 ? axis + *rank : axis) != 1) continue;
      const Runs runs(graph, *node, extra_work_);
      if (!runs.gain()) continue;
      const std::string label = node->label();
      OF_ASSIGN(const bool merged, Rewrite(graph, *node).run(runs.all()));
      if (!merged) context.skipped(label, "a merged weight is out of the range of its type");
      changed = changed || merged;
    }
    return changed;
  }

 private:
  std::int64_t extra_work_;
};

}  // namespace

std::unique_ptr<Pass> make_merge_conv_concat(const PassOptions& options) {
  return std::make_unique<MergeConvConcat>(options);
}

}  // namespace onnxfold
