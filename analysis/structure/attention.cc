#include "analysis/structure/attention.h"

#include <algorithm>

#include "analysis/structure/fused_attention.h"
#include "analysis/structure/projection.h"
#include "analysis/structure/region.h"
#include "analysis/structure/scores.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 24;

bool over_last_axis(const Node& softmax) {
  const std::int64_t axis = softmax.attr_int("axis", softmax.opset() >= 13 ? -1 : 1);
  const auto rank = softmax.input(0) != nullptr ? softmax.input(0)->rank() : std::nullopt;
  return axis == -1 || (rank ? axis == *rank - 1 : axis > 1);  // of an unknown rank: asked again when q is known
}

void add_nodes(std::vector<Node*>& to, const std::vector<Node*>& nodes) {
  to.insert(to.end(), nodes.begin(), nodes.end());
}

// All columns in order on the last axis.
bool in_order(const HeadLayout& layout, std::int64_t columns) {
  std::int64_t stride = 1;
  const auto& last = layout.axes.back();
  for (auto factor = last.rbegin(); factor != last.rend(); ++factor) {
    if (!factor->channel || factor->stride != stride) return false;
    stride *= factor->size;
  }
  return stride == columns && layout.offset == 0;
}

class Matcher {
 public:
  Matcher(Node& softmax, StructureContext& context) : softmax_(softmax), context_(context) {}

  bool match_products() {
    const Context after = trace_context(softmax_.output());
    if (after.product == nullptr) return fail(softmax_, "its result is not multiplied with values");
    scores_ = trace_scores(softmax_.input(0), context_);
    if (scores_.product == nullptr) return fail(softmax_, scores_.problem);
    take_scores(scores_, after);
    return true;
  }

  bool match() {
    if (!match_products() || !projections(scores_)) return false;
    const auto dims = context_.numbers.dims(softmax_.input(0));
    const auto rank = static_cast<std::int64_t>(dims ? dims->size() : q_layout_.axes.size());
    const std::int64_t axis = softmax_.attr_int("axis", -1);
    if (!softmax_.input(0)->rank() && axis > 0 && axis != rank - 1)
      return fail(softmax_, "it is not over the last axis");
    return output() && finish();
  }

  Attention take() { return std::move(attention_); }
  const StructureNote& note() const { return note_; }

 private:
  bool fail(const Node& node, std::string reason) {
    note_ = {node.label(), "no attention: " + std::move(reason)};
    return false;
  }

  void take_scores(const Scores& scores, const Context& after) {
    attention_.softmax = &softmax_;
    attention_.score_product = scores.product;
    attention_.context_product = after.product;
    attention_.context = after.product->output();
    attention_.masks = scores.masks;
    attention_.mask_value = scores.mask_value;
    attention_.softcap = scores.softcap;
    if (scores.scale_known) attention_.scale = scores.scale;
    add_nodes(attention_.nodes, scores.nodes);
    add_nodes(attention_.nodes, after.nodes);
    add_nodes(attention_.nodes, {scores.product, &softmax_, after.product});
  }

  bool projections(const Scores& scores) {
    return project(attention_.q, scores.product->input(0), -1, "q") &&
           project(attention_.k, scores.product->input(1), scores.key_transposed ? -1 : -2, "k") &&
           project(attention_.v, attention_.context_product->input(1), -1, "v");
  }

  bool project(Projection& projection, Value* operand, int feature_axis, const char* role) {
    const ProjectionPath path = trace_projection(operand, context_);
    projection = path.projection;
    const auto layout = operand_layout(path, context_);
    const auto columns = layout ? head_columns(*layout, feature_axis) : std::nullopt;
    if (!columns) {
      return fail(*attention_.score_product, std::string("the heads of ") + role + " cannot be followed" +
                                                 (path.problem.empty() ? "" : ": " + path.problem));
    }
    set_columns(projection, *columns);
    if (&projection == &attention_.q) q_layout_ = *layout;
    if (&projection != &attention_.v && attention_.scale) {
      attention_.scale = projection.scale ? std::optional(*attention_.scale * *projection.scale) : std::nullopt;
    }
    return true;
  }

  // Forward from the context to the output Linear.
  bool output() {
    Value* at = attention_.context;
    std::optional<HeadLayout> layout = context_layout(q_layout_, attention_.v.width);
    std::vector<Node*> passed;
    for (int i = 0; i < kMaxSteps; ++i) {
      if (layout) context_.numbers.refine(at, channel_extents(*layout));
      const auto norm = context_.norms_by_input.find(at);
      if (norm != context_.norms_by_input.end() && !attention_.inner_norm) {
        attention_.inner_norm = norm->second;
        add_nodes(passed, norm->second.nodes);
        at = norm->second.output;
        continue;
      }
      Node* node = data_reader(at);
      if (node == nullptr || node->output() == nullptr) break;
      const auto linear = linear_at(*node);
      if (linear && linear->input == at) {
        if (!layout || !in_order(*layout, linear->in)) break;
        attention_.out = linear;
        add_nodes(attention_.nodes, passed);
        break;
      }
      if (!step_output(*node, at)) break;
      if (moves_elements(*node) && layout) layout = layout_after(*layout, *node, *node->output(), context_.numbers);
      passed.push_back(node);
      at = node->output();
    }
    if (!attention_.out) attention_.inner_norm.reset();
    if (!attention_.out) attention_.gate = nullptr;
    return true;
  }

  bool step_output(const Node& node, const Value* at) {
    if (node.is("Mul") && attention_.gate == nullptr && constant(node.input(0)) == nullptr &&
        constant(node.input(1)) == nullptr) {
      attention_.gate = node.input(node.input(0) == at ? 1 : 0);
      return true;
    }
    const bool joins = node.is("Split") || node.is("Slice") || node.is("Gather");
    return (moves_elements(node) && !joins) || node.is("Cast") || node.is("Dropout");
  }

  bool finish();

  Node& softmax_;
  StructureContext& context_;
  Attention attention_;
  Scores scores_;
  HeadLayout q_layout_;
  StructureNote note_;
};

bool Matcher::finish() {
  Attention& a = attention_;
  a.heads = a.q.heads * a.q.repeats;
  a.kv_heads = a.k.heads;
  a.head_width = a.q.width;
  a.value_width = a.v.width;
  if (a.q.width != a.k.width || a.k.heads != a.v.heads || a.k.heads == 0 || a.heads % a.k.heads != 0) {
    return fail(softmax_, "heads of q, k and v do not agree");
  }
  complete_attention(a);
  return true;
}

// Behind what moves elements.
const Value* root(const Value* value) {
  while (value != nullptr && value->producer() != nullptr &&
         (moves_elements(*value->producer()) || value->producer()->is("Cast"))) {
    value = value->producer()->input(0);
  }
  return value;
}

Value* input_of(const Projection& projection) {
  return projection.linear ? projection.linear->input : projection.source;
}

bool same_linear(const Projection& a, const Projection& b) {
  return a.linear && b.linear && a.linear->product == b.linear->product;
}

}  // namespace

void complete_attention(Attention& a) {
  for (const Projection* projection : {&a.q, &a.k, &a.v}) {
    add_nodes(a.nodes, projection->nodes);
    if (projection->linear) add_nodes(a.nodes, projection->linear->nodes());
    a.rotary = a.rotary || projection->rotary;
  }
  if (a.out) add_nodes(a.nodes, a.out->nodes());
  a.output = a.out ? a.out->output : a.context;
  sort_nodes(a.nodes);
  if (a.packed_weight == nullptr) {
    a.input = input_of(a.q);
    a.kv_input = input_of(a.k);
    // What is made otherwise than by Linears (convolutions...) may come from one value in the end.
    const bool told = a.q.linear && (a.k.linear || a.k.source->is_graph_input());
    const Value* q = root(a.input);
    a.cross = told && root(a.kv_input) != q && root(input_of(a.v)) != q;
  }
  for (const Value* mask : a.masks) a.causal = a.causal || is_triangular(mask);
}

bool Attention::packed() const { return packed_weight != nullptr || (same_linear(q, k) && same_linear(q, v)); }

bool Attention::separate() const {
  if (!q.linear || !k.linear || !v.linear || same_linear(q, k) || same_linear(q, v) || same_linear(k, v)) return false;
  const auto whole = [](const Projection& p) {
    return p.offset == 0 && p.heads * p.width == p.linear->out && p.element_stride == 1 && p.head_stride == p.width;
  };
  return whole(q) && whole(k) && whole(v);
}

std::vector<Attention> find_attention_products(const Graph& graph) {
  StructureContext context(graph);
  std::vector<Attention> found;
  for (Node* node : graph.nodes()) {
    if (!node->is("Softmax") || node->output() == nullptr || !node->input(0)->rank() || !over_last_axis(*node))
      continue;
    Matcher matcher(*node, context);
    if (matcher.match_products()) found.push_back(matcher.take());
  }
  return found;
}

std::vector<Attention> find_attentions(const Graph& graph, std::vector<StructureNote>* notes) {
  StructureContext context(graph);
  std::vector<Attention> found;
  for (Node* node : graph.nodes()) {
    StructureNote note;
    if (node->is("Softmax")) {
      if (!over_last_axis(*node) || node->output() == nullptr) continue;
      Matcher matcher(*node, context);
      if (matcher.match()) {
        found.push_back(matcher.take());
      } else if (trace_context(node->output()).product != nullptr) {
        note = matcher.note();
      }
    } else if (auto fused = match_fused_attention(*node, context, note)) {
      found.push_back(std::move(*fused));
    }
    if (!note.reason.empty() && notes != nullptr) notes->push_back(std::move(note));
  }
  return found;
}

}  // namespace onnxfold
