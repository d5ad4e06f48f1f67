#include "analysis/structure/feed_forward.h"

#include <algorithm>

#include "analysis/structure/head_layout.h"
#include "analysis/structure/projection.h"
#include "analysis/structure/region.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 8;

// Where a branch of the hidden value comes from: columns [offset, offset + hidden) of a Linear.
struct Source {
  Linear linear;
  std::int64_t offset = 0, hidden = 0;
  std::vector<Node*> nodes;
};

bool passes(const Node& node) {
  return node.is("Cast") || node.is("Dropout") || node.is("Identity") || node.is("Reshape") || node.is("Squeeze") ||
         node.is("Unsqueeze") || node.is("Flatten");
}

class Matcher {
 public:
  Matcher(const Linear& down, StructureContext& context) : context_(context) { found_.down = down; }

  bool match() {
    Value* hidden = behind(found_.down.input);
    const auto norm = context_.norms_by_output.find(hidden);
    if (norm != context_.norms_by_output.end() && norm->second.skip == nullptr) {
      add(norm->second.nodes);
      hidden = behind(norm->second.input);
    }
    if (!(plain(hidden) || gated(hidden))) return false;
    if (norm != context_.norms_by_output.end()) found_.inner_norm = norm->second;
    return finish();
  }

  FeedForward take() { return std::move(found_); }

 private:
  void add(const std::vector<Node*>& nodes) { found_.nodes.insert(found_.nodes.end(), nodes.begin(), nodes.end()); }

  // Backwards through nodes that keep the numbers.
  Value* behind(Value* value) {
    for (int i = 0; i < kMaxSteps && value != nullptr && value->producer() != nullptr; ++i) {
      Node* node = value->producer();
      if (!passes(*node) || node->input(0) == nullptr || context_.norms_by_output.count(value) != 0) break;
      add({node});
      value = node->input(0);
    }
    return value;
  }

  // The Linear behind `value`, or the part of one behind a Split or Slice of its last axis.
  std::optional<Source> source(Value* value) {
    const ProjectionPath path = trace_projection(value, context_);
    const Projection& projection = path.projection;
    if (!projection.linear || projection.norm || projection.rotary || projection.past || projection.scale != 1)
      return {};
    const auto layout = operand_layout(path, context_);
    if (!layout || layout->axes.empty()) return {};
    const auto& last = layout->axes.back();
    if (last.size() != 1 || !last[0].channel || last[0].stride != 1) return {};
    return Source{*projection.linear, layout->offset, last[0].size, projection.nodes};
  }

  bool plain(Value* hidden) {
    if (fused_bias(hidden) || fused_gemm(hidden)) return true;
    const auto activation = activation_making(hidden);
    if (!activation) return false;
    const auto up = source(activation->input);
    if (!up || up->hidden != up->linear.out) return false;
    take_up(*up);
    found_.activation = *activation;
    add(activation->nodes);
    return true;
  }

  // BiasGelu(x, b) and FastGelu(x, b) of ONNX Runtime.
  bool fused_bias(Value* hidden) {
    Node* node = hidden == nullptr ? nullptr : hidden->producer();
    if (node == nullptr || constant(node->input(1)) == nullptr) return false;
    const bool tanh = node->is("FastGelu", "com.microsoft");
    if (!tanh && !node->is("BiasGelu", "com.microsoft")) return false;
    const auto up = source(node->input(0));
    if (!up || up->linear.bias != nullptr || up->hidden != up->linear.out) return false;
    take_up(*up);
    found_.fused_bias = node;
    found_.activation.emplace();
    found_.activation->kind = tanh ? ActivationMatch::Kind::kGeluTanh : ActivationMatch::Kind::kGelu;
    found_.activation->input = node->input(0);
    found_.activation->output = node->output();
    found_.activation->fused = true;
    found_.activation->nodes = {node};
    add({node});
    return true;
  }

  // FusedGemm of ONNX Runtime: up and activation.
  bool fused_gemm(Value* hidden) {
    Node* node = hidden == nullptr ? nullptr : hidden->producer();
    const auto up = node == nullptr ? std::nullopt : linear_inside(*node);
    if (!up) return false;
    const auto kind = activation_named(node->attr_string("activation", ""));
    if (!kind) return false;
    take_up(Source{*up, 0, up->out, {}});
    found_.fused_bias = node;
    found_.activation.emplace();
    found_.activation->kind = *kind;
    found_.activation->output = node->output();
    found_.activation->fused = true;
    found_.activation->nodes = {node};
    return true;
  }

  void take_up(const Source& up) {
    found_.up = up.linear;
    found_.up_offset = up.offset;
    found_.hidden = up.hidden;
    add(up.nodes);
  }

  bool gated(Value* hidden) {
    Node* mul = hidden == nullptr ? nullptr : hidden->producer();
    if (mul == nullptr || !mul->is("Mul")) return false;
    for (std::size_t side = 0; side < 2; ++side) {
      const auto activation = activation_making(mul->input(side));
      if (activation && gated(*mul, activation->input, mul->input(1 - side))) {
        found_.activation = *activation;
        add(activation->nodes);
        return true;
      }
    }
    return gated(*mul, mul->input(0), mul->input(1));  // bilinear: no activation
  }

  bool gated(Node& mul, Value* gate_value, Value* up_value) {
    const auto gate = source(gate_value), up = source(up_value);
    if (!gate || !up || gate->hidden != up->hidden || gate->linear.input != up->linear.input) return false;
    const bool one = gate->linear.product == up->linear.product;
    if (one ? gate->offset == up->offset : gate->hidden != gate->linear.out || up->hidden != up->linear.out)
      return false;
    take_up(*up);
    found_.gate = gate->linear;
    found_.gate_offset = gate->offset;
    found_.product = &mul;
    add(gate->nodes);
    add({&mul});
    return true;
  }

  bool finish() {
    if (found_.hidden != found_.down.in || found_.up.in != found_.down.out) return false;
    add(found_.up.nodes());
    add(found_.down.nodes());
    if (found_.gate) add(found_.gate->nodes());
    sort_nodes(found_.nodes);
    found_.input = found_.up.input;
    found_.output = found_.down.output;
    return closed();
  }

  // Does nothing else read what happens inside? Readers of a shape only do not count.
  bool closed() const {
    for (const Node* node : found_.nodes) {
      for (const Value* value : node->outputs()) {
        const bool inside = value != nullptr && value != found_.output && constant(node->input(0)) == nullptr;
        if (inside &&
            std::any_of(value->uses().begin(), value->uses().end(), [&](const Use& use) { return leaves(use); }))
          return false;
      }
    }
    return true;
  }

  bool leaves(const Use& use) const {
    if (use.node == nullptr) return true;
    if (use.node->is("Shape") || use.node->is("Size")) return false;
    return std::find(found_.nodes.begin(), found_.nodes.end(), use.node) == found_.nodes.end();
  }

  StructureContext& context_;
  FeedForward found_;
};

// The Linear whose result, squashed or not, decides.
const Node* router_of(Value* scores, MixtureOfExperts& mixture) {
  for (int i = 0; i < kMaxSteps && scores != nullptr && scores->producer() != nullptr; ++i) {
    const Node* node = scores->producer();
    if (const auto linear = linear_making(scores)) {
      mixture.experts = linear->out;
      mixture.input = linear->input;
      return linear->product;
    }
    if (!passes(*node) && !node->is("Softmax") && !node->is("Sigmoid") && !node->is("Add")) return nullptr;
    scores = node->input(0);
  }
  return nullptr;
}

}  // namespace

std::vector<FeedForward> find_feed_forwards(const Graph& graph) {
  StructureContext context(graph);
  std::vector<FeedForward> found;
  for (const Linear& down : find_linears(graph)) {
    Matcher matcher(down, context);
    if (matcher.match()) found.push_back(matcher.take());
  }
  return found;
}

std::vector<MixtureOfExperts> find_mixtures(const Graph& graph) {
  std::vector<MixtureOfExperts> found;
  for (Node* node : graph.nodes()) {
    MixtureOfExperts mixture;
    mixture.selection = node;
    if (node->is("MoE", "com.microsoft") || node->is("QMoE", "com.microsoft")) {
      mixture.router = node;
      mixture.input = node->input(0);
      mixture.chosen = node->attr_int("k", 1);
      found.push_back(mixture);
    } else if (node->is("TopK") && node->attr_int("axis", -1) != 0) {
      mixture.router = const_cast<Node*>(router_of(node->input(0), mixture));
      const auto chosen = node->input(1) != nullptr ? int_constants(node->input(1)) : std::nullopt;
      mixture.chosen = chosen && chosen->size() == 1 ? chosen->front() : node->attr_int("k", 0);
      if (mixture.router != nullptr && mixture.experts > mixture.chosen) found.push_back(mixture);
    }
  }
  return found;
}

}  // namespace onnxfold
