#include "analysis/structure/fused_attention.h"

#include <cmath>

#include "analysis/structure/region.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr const char* kMicrosoft = "com.microsoft";

std::int64_t columns_of(const ProjectionPath& path) {
  if (path.projection.linear) return path.projection.linear->out;
  const Value* source = path.projection.source;
  if (!source->rank() || *source->rank() == 0 || !source->type().shape->back().known()) return 0;
  return *source->type().shape->back().value;
}

class FusedMatcher {
 public:
  FusedMatcher(Node& node, StructureContext& context) : node_(node), context_(context) {
    attention_.fused = &node;
    attention_.context = node.output();
    attention_.nodes = {&node};
  }

  std::optional<Attention> match(std::string& problem) {
    const bool done = node_.is("Attention", kMicrosoft)             ? packed_weight()
                      : node_.is("MultiHeadAttention", kMicrosoft)  ? multi_head()
                      : node_.is("GroupQueryAttention", kMicrosoft) ? group_query()
                                                                    : standard();
    if (!done) problem = problem_.empty() ? "its inputs cannot be followed to Linears" : problem_;
    if (!done) return {};
    scale();
    attention_.softcap = static_cast<double>(node_.attr_float("softcap", 0));
    output();
    complete_attention(attention_);
    return std::move(attention_);
  }

 private:
  void scale() {
    const auto stated = static_cast<double>(node_.attr_float("scale", 0));
    const double usual = 1 / std::sqrt(static_cast<double>(attention_.head_width));
    if (!attention_.q.scale || !attention_.k.scale) return;
    attention_.scale = (stated != 0 ? stated : usual) * *attention_.q.scale * *attention_.k.scale;
  }

  void mask(std::size_t input) {
    if (node_.input(input) != nullptr) attention_.masks.push_back(node_.input(input));
  }

  void cache(std::size_t key, std::size_t value, std::size_t present_key) {
    attention_.k.past = node_.input(key);
    attention_.v.past = node_.input(value);
    attention_.k.present = node_.output(present_key);
    attention_.v.present = node_.output(present_key + 1);
  }

  // One operand of [batch, positions, heads * width], `share` of its columns from `first` on, or of [batch, heads,
  // positions, width].
  bool project(Projection& projection, Value* operand, std::int64_t heads, std::int64_t first = 0,
               std::int64_t width = 0) {
    if (operand == nullptr) return false;
    const ProjectionPath path = trace_projection(operand, context_);
    projection = path.projection;
    auto layout = operand_layout(path, context_);
    const auto dims = context_.numbers.dims(operand);
    if (!projection.linear && dims && dims->size() == 4) {  // nothing but the shape tells the heads
      if (!(*dims)[1] || !(*dims)[3]) return false;
      set_columns(projection, {0, *(*dims)[1], *(*dims)[3], *(*dims)[3], 1, 1});
      return true;
    }
    std::optional<HeadColumns> columns;
    if (layout && layout->axes.size() == 3 && heads > 0) {
      auto& last = layout->axes.back();
      if (last.size() != 1 || !last[0].channel || last[0].stride != 1) return false;
      columns = HeadColumns{};
      columns->width = width > 0 ? width : last[0].size / heads;
      columns->offset = layout->offset + first * columns->width;
      columns->heads = heads;
      columns->head_stride = columns->width;
    } else if (layout) {
      columns = head_columns(*layout, -1);
    }
    if (!columns || columns->width == 0) return false;
    set_columns(projection, *columns);
    return true;
  }

  bool set_heads() {
    Attention& a = attention_;
    a.heads = a.q.heads * a.q.repeats;
    a.kv_heads = a.k.heads;
    a.head_width = a.q.width;
    a.value_width = a.v.width;
    return a.heads > 0 && a.kv_heads > 0 && a.heads % a.kv_heads == 0;
  }

  bool packed_weight() {
    Attention& a = attention_;
    const Tensor* weight = constant(node_.input(1));
    const std::int64_t heads = node_.attr_int("num_heads", 0);
    if (weight == nullptr || weight->rank() != 2 || heads <= 0) return false;
    auto sizes = node_.attr_ints("qkv_hidden_sizes");
    if (!sizes) sizes.emplace(3, weight->dims()[1] / 3);
    if (sizes->size() != 3 || (*sizes)[0] + (*sizes)[1] + (*sizes)[2] != weight->dims()[1]) return false;
    std::int64_t offset = 0;
    Projection* parts[] = {&a.q, &a.k, &a.v};
    for (std::size_t i = 0; i < 3; ++i) {
      parts[i]->source = parts[i]->operand = node_.input(0);
      set_columns(*parts[i], {offset, heads, (*sizes)[i] / heads, (*sizes)[i] / heads, 1, 1});
      offset += (*sizes)[i];
    }
    a.packed_weight = node_.input(1);
    a.packed_bias = node_.input(2);
    a.input = a.kv_input = node_.input(0);
    a.causal = node_.attr_int("unidirectional", 0) != 0;
    a.rotary = node_.attr_int("do_rotary", 0) != 0;
    a.k.past = a.v.past = node_.input(4);
    a.k.present = a.v.present = node_.output(1);
    mask(3);
    mask(5);
    return set_heads();
  }

  bool multi_head() {
    Attention& a = attention_;
    const std::int64_t heads = node_.attr_int("num_heads", 0);
    if (node_.input(1) == nullptr || node_.input(2) == nullptr) {
      problem_ = "packed q, k and v in one input";
      return false;
    }
    if (!project(a.q, node_.input(0), heads) || !project(a.k, node_.input(1), heads) ||
        !project(a.v, node_.input(2), heads)) {
      return false;
    }
    a.packed_bias = node_.input(3);
    a.causal = node_.attr_int("unidirectional", 0) != 0;
    mask(4);
    mask(5);
    cache(6, 7, 1);
    return set_heads();
  }

  bool group_query() {
    Attention& a = attention_;
    const std::int64_t heads = node_.attr_int("num_heads", 0), kv = node_.attr_int("kv_num_heads", 0);
    if (heads <= 0 || kv <= 0) return false;
    if (node_.input(1) == nullptr) {
      const ProjectionPath path = trace_projection(node_.input(0), context_);
      const std::int64_t width = columns_of(path) / (heads + 2 * kv);
      if (!project(a.q, node_.input(0), heads, 0, width) || !project(a.k, node_.input(0), kv, heads, width) ||
          !project(a.v, node_.input(0), kv, heads + kv, width)) {
        return false;
      }
    } else if (!project(a.q, node_.input(0), heads) || !project(a.k, node_.input(1), kv) ||
               !project(a.v, node_.input(2), kv)) {
      return false;
    }
    a.causal = true;
    if (node_.attr_int("do_rotary", 0) != 0) {
      a.q.rotary = a.k.rotary = true;
      a.q.tables = a.k.tables = {node_.input(7), node_.input(8)};
    }
    mask(10);
    cache(3, 4, 1);
    return set_heads();
  }

  bool standard() {
    Attention& a = attention_;
    const std::int64_t heads = node_.attr_int("q_num_heads", 0), kv = node_.attr_int("kv_num_heads", heads);
    if (!project(a.q, node_.input(0), heads) || !project(a.k, node_.input(1), kv) ||
        !project(a.v, node_.input(2), kv)) {
      return false;
    }
    a.causal = node_.attr_int("is_causal", 0) != 0;
    mask(3);
    cache(4, 5, 1);
    return set_heads();
  }

  void output() {
    Value* at = attention_.context;
    std::vector<Node*> passed;
    for (int i = 0; i < 8; ++i) {
      Node* node = data_reader(at);
      if (node == nullptr || node->output() == nullptr) return;
      const auto linear = linear_at(*node);
      if (linear && linear->input == at) {
        if (linear->in != attention_.heads * attention_.value_width) return;
        attention_.out = linear;
        attention_.nodes.insert(attention_.nodes.end(), passed.begin(), passed.end());
        return;
      }
      if (!node->is("Transpose") && !node->is("Reshape") && !node->is("Cast") && !node->is("Identity")) return;
      passed.push_back(node);
      at = node->output();
    }
  }

  Node& node_;
  StructureContext& context_;
  Attention attention_;
  std::string problem_;
};

bool is_fused(const Node& node) {
  return node.is("Attention") || node.is("Attention", kMicrosoft) || node.is("MultiHeadAttention", kMicrosoft) ||
         node.is("GroupQueryAttention", kMicrosoft);
}

}  // namespace

std::optional<Attention> match_fused_attention(Node& node, StructureContext& context, StructureNote& note) {
  if (!is_fused(node) || node.output() == nullptr || node.input(0) == nullptr) return {};
  std::string problem;
  auto attention = FusedMatcher(node, context).match(problem);
  if (!attention) note = {node.label(), "no attention: " + problem};
  return attention;
}

}  // namespace onnxfold
