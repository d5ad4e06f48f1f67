#include "analysis/structure/axis_groups.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>

#include "analysis/structure/axis_labels.h"
#include "analysis/structure/axis_moves.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::string_view kMicrosoft = "com.microsoft";
constexpr std::array<std::string_view, 5> kPassing = {"Identity", "Cast", "Dropout", "Neg", "CastLike"};
constexpr std::array<std::string_view, 26> kPointwise = {
    "Relu",       "Erf",  "Tanh", "Sigmoid",  "Gelu",      "Exp",      "Sqrt",        "Softplus",  "Elu",
    "LeakyRelu",  "Clip", "Abs",  "Mish",     "Selu",      "Softsign", "HardSigmoid", "HardSwish", "Log",
    "Reciprocal", "Sin",  "Cos",  "FastGelu", "QuickGelu", "Celu",     "Swish",       "BiasGelu"};
constexpr std::array<std::string_view, 9> kBinary = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "PRelu"};

class Walker : private AxisLabels {
 public:
  explicit Walker(const Graph& graph) : graph_(graph) {}

  AxisGroups run() {
    attentions_ = find_attentions(graph_);
    for (const Attention& attention : attentions_) skip_attention(attention);
    norms_ = find_norms(graph_);
    for (const Norm& norm : norms_) {
      for (const Node* node : norm.nodes) skipped_.insert(node);
      skipped_.erase(norm.last());
      norm_of_[norm.last()] = &norm;
    }
    for (const Node* node : graph_.nodes()) visit(*node);
    for (const Attention& attention : attentions_) fix_operands(attention);
    for (const Value* output : graph_.outputs()) fix(*output);
    AxisGroups result;
    result.groups = groups();
    result.attentions = std::move(attentions_);
    return result;
  }

 private:
  void skip_attention(const Attention& attention) {
    std::set<const Node*> linears;
    for (const Projection* projection : {&attention.q, &attention.k, &attention.v}) {
      if (!projection->linear) continue;
      for (const Node* node : projection->linear->nodes()) linears.insert(node);
      inputs_of_heads_.insert(projection->linear->product);
    }
    if (attention.out) {
      for (const Node* node : attention.out->nodes()) linears.insert(node);
      outputs_of_heads_.insert(attention.out->product);
    }
    for (const Node* node : attention.nodes) {
      if (linears.count(node) == 0) skipped_.insert(node);
    }
    if (attention.packed_weight != nullptr) packed_[attention.fused] = &attention;
  }

  // What enters an attention beside its Linears (masks, biases of scores, caches, gates) stays in its order.
  void fix_operands(const Attention& attention) {
    const std::set<const Node*> inside(attention.nodes.begin(), attention.nodes.end());
    for (const Node* node : attention.nodes) {
      if (skipped_.count(node) == 0 || packed_.count(node) != 0) continue;
      for (const Value* input : node->inputs()) {
        if (input != nullptr && (input->producer() == nullptr || inside.count(input->producer()) == 0)) fix(*input);
      }
    }
  }

  void visit(const Node& node) {
    if (const auto norm = norm_of_.find(&node); norm != norm_of_.end()) return visit_norm(*norm->second);
    if (const auto packed = packed_.find(&node); packed != packed_.end()) return visit_packed(*packed->second);
    if (skipped_.count(&node) != 0) return;
    if (const auto linear = linear_at(node)) return visit_linear(*linear);
    if (node.is("Conv")) return visit_conv(node);
    if (node.is("BatchNormalization") || node.is("InstanceNormalization")) return visit_channel_norm(node);
    if (one_of(node, kPassing) || one_of(node, kPointwise)) return visit_unary(node);
    if (one_of(node, kBinary)) return visit_binary(node);
    if (moves_axes(node)) return pass_moved(node, *this);
    if (node.is("Shape") || node.is("Size") || node.is("Constant")) return;
    give_up(node);
  }

  void visit_norm(const Norm& norm) {
    Labels from = labels(*norm.input);
    if (from.empty()) return give_up_norm(norm);
    int label = from.back();
    if (norm.skip != nullptr) {
      const Labels other = labels(*norm.skip);
      label = join(label, other.empty() ? kFixed : other.back());
      if (other.empty()) {
        for (const int row : from) fix_label(row);
      }
      join_rows(from, dims_of(*norm.input), other, dims_of(*norm.skip));
    }
    for (const Value* vector : {norm.gain, norm.bias, norm.sum_bias}) {
      if (vector == nullptr) continue;
      const Labels own = labels(*vector);
      if (own.empty() || own.back() == kFixed) continue;
      if (vector == norm.gain && uniform(*vector)) {
        fix_label(own.back());  // a rotation passes it by: rotated itself, it would be another
        continue;
      }
      label = join(label, own.back());
      if (vector == norm.gain) pointwise({label});
    }
    if (norm.kind == Norm::Kind::kLayer) centred(label);
    Labels to = from;
    to.back() = label;
    set(norm.output, to);
    if (norm.sum != nullptr) set(norm.sum, to);
  }
  // Of two addends all axes but the last, where both have more than one element.
  void join_rows(Labels& to, const std::vector<std::int64_t>& dims, const Labels& other,
                 const std::vector<std::int64_t>& other_dims) {
    for (std::size_t back = 2; back <= std::min(to.size(), other.size()); ++back) {
      const std::size_t i = to.size() - back, j = other.size() - back;
      if (dims[i] != 1 && other_dims[j] != 1) to[i] = join(to[i], other[j]);
    }
  }
  void give_up_norm(const Norm& norm) {
    for (const Node* node : norm.nodes) give_up(*node);
  }
  static bool uniform(const Value& value) {
    const auto numbers = to_doubles(*parameter(&value));
    return numbers && std::all_of(numbers->begin(), numbers->end(), [&](double x) { return x == numbers->front(); });
  }

  // Heads are cut out of the columns of q, k and v and joined before the output Linear.
  void visit_linear(const Linear& linear) {
    const Labels from = labels(*linear.input);
    const Labels weight = labels(*linear.weight);
    const int in = weight[linear.stored_out_in ? 1 : 0];
    const int out = weight[linear.stored_out_in ? 0 : 1];
    if (outputs_of_heads_.count(linear.product) != 0) {
      fix_label(in);
    } else if (from.empty()) {
      fix_label(in);
    } else if (in != kFixed || from.back() != kFixed) {
      join(from.back(), in);
    }
    if (inputs_of_heads_.count(linear.product) != 0) fix_label(out);
    Labels to = from;
    if (to.empty()) to.assign(dims_of(*linear.product->output()).size(), kFixed);
    if (!to.empty()) to.back() = out;
    const Value* bias = linear.product->is("Gemm") ? linear.product->input(2) : nullptr;
    if (bias != nullptr) {
      const Labels own = labels(*bias);
      if (!own.empty()) join_if_sized(own.back(), out);
      for (std::size_t i = 0; i + 1 < own.size(); ++i) fix_label(own[i]);
    }
    set(linear.product->output(), std::move(to));
    // A Transpose between constant and product has been passed already and said nothing of the constant's axes.
  }

  void visit_packed(const Attention& attention) {
    const Labels from = labels(*attention.input);
    const Labels weight = labels(*attention.packed_weight);
    if (!from.empty() && weight.size() == 2) join(from.back(), weight[0]);
    if (weight.size() == 2) fix_label(weight[1]);
    if (attention.packed_bias != nullptr) fix(*attention.packed_bias);
  }

  void visit_conv(const Node& node) {
    const Labels from = labels(*node.input(0));
    const Labels weight = labels(*node.input(1));
    if (from.size() < 3 || weight.size() != from.size() || parameter(node.input(1)) == nullptr) return give_up(node);
    const std::int64_t group = node.attr_int("group", 1);
    const std::vector<std::int64_t> dims = dims_of(*node.input(1));
    for (std::size_t i = 2; i < weight.size(); ++i) fix_label(weight[i]);
    int out = weight[0];
    if (group == 1) {
      if (weight[1] != kFixed || from[1] != kFixed) join(weight[1], from[1]);
    } else if (dims[0] == group && dims[1] == 1) {  // depthwise: each channel keeps to itself
      out = join(weight[0], from[1]);
      pointwise({out});
    } else {
      return give_up(node);
    }
    if (node.input(2) != nullptr) {
      const Labels bias = labels(*node.input(2));
      if (!bias.empty()) join_if_sized(bias[0], out);
    }
    Labels to(from.size(), kFixed);
    to[1] = out;
    set(node.output(), std::move(to));
  }

  void visit_channel_norm(const Node& node) {
    Labels to = labels(*node.input(0));
    if (to.size() < 2) return give_up(node);
    for (std::size_t i = 1; i < node.inputs().size(); ++i) {
      if (node.input(i) == nullptr) continue;
      const Labels own = labels(*node.input(i));
      if (own.size() == 1) to[1] = own[0] == kFixed ? to[1] : join(to[1], own[0]);
    }
    pointwise({to[1]});
    set(node.output(), std::move(to));
  }

  void visit_unary(const Node& node) {
    Labels from = labels(*node.input(0));
    if (node.input(1) != nullptr && (node.is("BiasGelu", kMicrosoft) || node.is("FastGelu", kMicrosoft))) {
      if (from.empty() || labels(*node.input(1)).empty()) return give_up(node);
      from.back() = join(from.back(), labels(*node.input(1)).back());
    }
    if (one_of(node, kPointwise)) pointwise(from);
    set(node.output(), from);
  }

  void visit_binary(const Node& node) {
    const std::size_t rank = dims_of(*node.output()).size();
    Labels to(rank, kFixed);
    std::vector<bool> seen(rank, false);
    const bool sum = node.is("Add") || node.is("Sub");
    std::vector<bool> spread(rank, false);  // an operand has one element where another has channels
    for (const Value* input : node.inputs()) {
      if (input == nullptr) continue;
      const Labels from = labels(*input);
      const std::vector<std::int64_t> dims = dims_of(*input);
      if (from.size() > rank) return give_up(node);
      for (std::size_t axis = 0; axis < rank; ++axis) {
        const std::size_t missing = rank - from.size();
        const bool one = axis < missing || dims[axis - missing] == 1;
        spread[axis] = spread[axis] || (one && !scalar_factor(node, *input));
        if (one) continue;
        const int label = from[axis - missing];
        to[axis] = seen[axis] ? join(to[axis], label) : label;
        seen[axis] = true;
      }
    }
    // A sum of equals is linear; a product with one number too. All else acts on each channel by itself.
    for (std::size_t axis = 0; axis < rank; ++axis) {
      const bool factor = (node.is("Mul") || node.is("Div")) && one_number(node);
      if (!factor && (!sum || spread[axis])) pointwise({to[axis]});
    }
    set(node.output(), std::move(to));
  }
  static bool scalar_factor(const Node& node, const Value& input) {
    return (node.is("Mul") || node.is("Div")) && scalar_constant(&input).has_value();
  }
  static bool one_number(const Node& node) {
    return scalar_constant(node.input(1)).has_value() || (node.is("Mul") && scalar_constant(node.input(0)).has_value());
  }

  const Graph& graph_;
  std::vector<Attention> attentions_;
  std::vector<Norm> norms_;
  std::map<const Node*, const Norm*> norm_of_;
  std::map<const Node*, const Attention*> packed_;
  std::set<const Node*> skipped_, inputs_of_heads_, outputs_of_heads_;
};

}  // namespace

AxisGroups find_axis_groups(const Graph& graph) { return Walker(graph).run(); }

}  // namespace onnxfold
