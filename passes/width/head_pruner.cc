#include "passes/width/head_pruner.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "analysis/algebra/column_removal.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool is_packed_operator(const Attention& attention) { return attention.packed_weight != nullptr; }

// Elements of a constant along its last axis.
Result<Tensor> last_axis_at(const Tensor& tensor, const std::vector<std::int64_t>& kept) {
  OF_ASSIGN(const std::vector<double> numbers, to_doubles(tensor));
  Dims dims = tensor.dims();
  const std::int64_t width = dims.back();
  dims.back() = static_cast<std::int64_t>(kept.size());
  std::vector<double> chosen;
  for (std::size_t row = 0; row * static_cast<std::size_t>(width) < numbers.size(); ++row) {
    for (const std::int64_t at : kept)
      chosen.push_back(numbers[row * static_cast<std::size_t>(width) + static_cast<std::size_t>(at)]);
  }
  return from_doubles(tensor.dtype(), dims, chosen);
}

Status replace_last_axis(Graph& graph, Node& node, std::size_t input, const std::vector<std::int64_t>& kept) {
  Value* old = node.input(input);
  OF_ASSIGN(Tensor tensor, last_axis_at(*constant(old), kept));
  graph.set_input(node, input, graph.add_initializer(old->name(), std::move(tensor)));
  erase_if_unused(graph, *old);
  return {};
}

}  // namespace

HeadPruner::HeadPruner(const Attention& attention, HeadPaths& paths, std::int64_t kept)
    : attention_(attention), paths_(paths), growth_(paths.numbers(), true), kept_(kept) {
  const std::int64_t common = std::gcd(kept, groups(attention));
  times_ = kept / common;
  per_ = groups(attention) / common;
}

std::vector<std::int64_t> HeadPruner::output_rows(const Attention& attention, std::int64_t group) {
  const std::int64_t size = attention.heads / attention.kv_heads * attention.value_width;
  std::vector<std::int64_t> rows(static_cast<std::size_t>(size));
  std::iota(rows.begin(), rows.end(), group * size);
  return rows;
}

std::string HeadPruner::plan() {
  if (std::string why = plan_parts(); !why.empty()) return why;
  if (!is_packed_operator(attention_)) {
    for (std::size_t role = 0; role < 3; ++role) {
      if (std::string why = plan_projection(role); !why.empty()) return why;
    }
    if (std::string why = plan_columns(); !why.empty()) return why;
  }
  const auto path = paths_.to_output(attention_);
  if (!path) return "its output cannot be followed";
  for (const HeadStep& step : path->steps) passed_.push_back(step.node);
  const Growth rows{attention_.value_width, attention_.heads, times_, per_};
  std::string why = growth_.plan(*path, *attention_.context, rows);
  if (why.empty()) why = attention_.fused != nullptr ? plan_operator() : plan_scores();
  return why.empty() ? growth_.check_shape_readers() : why;
}

std::string HeadPruner::plan_parts() const {
  const Attention& a = attention_;
  if (!a.out) return "its output Linear was not found";
  if (a.kv_heads < 2) return "it has one key-value head";
  if (a.heads % a.kv_heads != 0) return "its queries are grouped in a way that is not understood";
  if (a.gate != nullptr || a.inner_norm) return "a gate or norm stands before its output Linear";
  if (a.out->in != a.heads * a.value_width) return "its output Linear reads something else as well";
  if (a.out->weight->uses().size() > 1) return "a weight is shared";
  if (!closed_but_shapes(a)) return "an inner value is read elsewhere";
  for (const Projection* p : projections()) {
    if (p->past != nullptr || p->present != nullptr) return "its key-value cache is part of the signature";
    if (is_packed_operator(a)) continue;
    if (!p->linear) return "q, k or v is made by no Linear";
    if (p->linear->weight->uses().size() > 1) return "a weight is shared";
    if (p->norm && p->norm->width != p->width) return "a norm over all heads stands before the product";
  }
  return {};
}

std::string HeadPruner::plan_projection(std::size_t role) {
  const Projection& p = *projections()[role];
  if (p.heads < 2) return "it has one head";
  const auto path = paths_.to_product(p);
  if (!path) return "its heads cannot be followed";
  const Growth growth{p.head_stride, p.heads, times_, per_};
  const std::int64_t end = growth.stride * growth.size;  // what lies beyond moves closer
  Columns& columns = columns_[role];
  columns = {p.offset, p.head_stride, p.element_stride};
  // An offset inside the dimension tells q, k and v of one head apart.
  const bool inside = p.head_stride > p.width && p.element_stride == 1 && p.offset < p.head_stride;
  for (std::int64_t* place : {&columns.head_stride, &columns.element_stride, &columns.offset}) {
    if (place == &columns.offset ? inside : *place < end) continue;
    if (!growth.divides(*place)) return "the columns of its heads are not understood";
    *place = growth.grown(*place);
  }
  for (const HeadStep& step : path->steps) {
    const int axis = HeadGrowth::growing_axis(step.before, growth);
    std::vector<Node*> nodes = step.moves ? std::vector<Node*>() : step.inner;
    if (!step.moves) nodes.push_back(step.node);
    for (const Node* node : nodes) {
      for (const Value* input : node->inputs()) {
        const Tensor* tensor = constant(input);
        if (tensor == nullptr || tensor->rank() < axis || axis == 0 || !is_float(tensor->dtype())) continue;
        if (tensor->dims()[static_cast<std::size_t>(tensor->rank() - axis)] != 1)
          return "'" + node->label() + "' has a constant for each head";
      }
    }
  }
  if (role == 0) head_axis_ = HeadGrowth::growing_axis(path->last(), {p.head_stride, p.heads, 1, 1});
  return growth_.plan(*path, *p.linear->output, growth);
}

// Every column that is left is written once.
std::string HeadPruner::plan_columns() {
  for (std::size_t role = 0; role < 3; ++role) {
    const Linear& linear = *projections()[role]->linear;
    const auto known = std::find_if(shared_.begin(), shared_.end(),
                                    [&](const Shared& each) { return each.linear.product == linear.product; });
    if (known != shared_.end()) {
      known->roles.push_back(role);
    } else {
      shared_.push_back({linear, {role}});
    }
  }
  std::vector<std::int64_t> first(static_cast<std::size_t>(kept_));
  std::iota(first.begin(), first.end(), 0);
  for (const Shared& shared : shared_) {
    if (shared.linear.out % per_ != 0) return "the heads do not divide its columns";
    const std::vector<std::int64_t> kept = columns_kept(shared, first);
    if (std::find(kept.begin(), kept.end(), -1) != kept.end()) return "its Linears make more than q, k and v";
  }
  return {};
}

// Between the products only element-wise operators may stand.
std::string HeadPruner::plan_scores() {
  const Attention& a = attention_;
  const auto plain = [](const Node* node) {
    return node != nullptr && (node->is("MatMul") || node->is("FusedMatMul", "com.microsoft"));
  };
  if (!plain(a.score_product) || !plain(a.context_product)) return "its products are no MatMul";
  if (head_axis_ < 3) return "its heads are not before positions";
  if (std::string why = find_score_nodes(a, passed_, score_nodes_); !why.empty()) return why;
  for (Node* node : score_nodes_) {
    for (Value* output : node->outputs()) {
      if (output == nullptr || output->uses().empty()) continue;
      const auto rank = paths_.numbers().dims(output);
      const bool wide = rank && static_cast<int>(rank->size()) >= head_axis_;
      if (wide) growth_.also_grows(*output, rank->size() - static_cast<std::size_t>(head_axis_));
    }
    if (node == a.score_product) continue;
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      if (std::string why = plan_operand(*node, i); !why.empty()) return why;
    }
  }
  return {};
}

// Masks and biases of scores: those with an entry for each head lose entries too.
std::string HeadPruner::plan_operand(Node& node, std::size_t input) {
  const Value* value = node.input(input);
  if (value == nullptr || value->constant() != nullptr) {
    if (value == nullptr || value->constant()->rank() < head_axis_) return {};
  } else if (std::find(attention_.nodes.begin(), attention_.nodes.end(), value->producer()) != attention_.nodes.end()) {
    return {};
  }
  const auto dims = paths_.numbers().dims(value);
  if (!dims) return "the shape of its mask is not known";
  if (static_cast<int>(dims->size()) < head_axis_) return {};
  const auto heads = (*dims)[dims->size() - static_cast<std::size_t>(head_axis_)];
  if (heads == 1) return {};
  if (heads != attention_.heads) return "whether its mask tells heads apart is not known";
  masks_.push_back({&node, input, dims->size() - static_cast<std::size_t>(head_axis_)});
  return {};
}

// Masks of three dimensions begin with heads in ai.onnx Attention, with the batch in those of com.microsoft.
std::string HeadPruner::plan_operator() {
  Node& node = *attention_.fused;
  for (const char* name : {"num_heads", "q_num_heads", "kv_num_heads"}) {
    if (node.attr_int(name, 0) % per_ != 0) return "the heads do not divide those of " + node.label();
  }
  for (const std::int64_t size : node.attr_ints("qkv_hidden_sizes").value_or(std::vector<std::int64_t>{})) {
    if (size % per_ != 0) return "the heads do not divide the widths of " + node.label();
  }
  if (node.is("GroupQueryAttention", "com.microsoft") && node.input(11) != nullptr)
    return "it has a sink for each head";
  const int least = node.domain().empty() ? 3 : 4;
  for (const Value* mask : attention_.masks) {
    const auto dims = paths_.numbers().dims(mask);
    if (!dims) return "the shape of its mask is not known";
    if (static_cast<int>(dims->size()) < least) continue;
    const auto heads = (*dims)[dims->size() - 3];
    if (heads == 1) continue;
    if (heads != attention_.heads) return "whether its mask tells heads apart is not known";
    const auto& inputs = node.inputs();
    const auto at = std::find(inputs.begin(), inputs.end(), mask);
    if (at == inputs.end()) return "its mask was not found";
    masks_.push_back({&node, static_cast<std::size_t>(at - inputs.begin()), dims->size() - 3});
  }
  if (attention_.packed_bias != nullptr && constant(attention_.packed_bias) == nullptr) return "its bias is computed";
  if (is_packed_operator(attention_) && attention_.packed_weight->uses().size() > 1) return "a weight is shared";
  return {};
}

// Of q all heads of the groups, of k and v the groups themselves.
std::vector<std::int64_t> HeadPruner::heads_of(const std::vector<std::int64_t>& groups,
                                               const Projection& projection) const {
  const std::int64_t each = projection.heads / attention_.kv_heads;
  std::vector<std::int64_t> heads;
  for (const std::int64_t group : groups) {
    for (std::int64_t i = 0; i < each; ++i) heads.push_back(group * each + i);
  }
  return heads;
}

// For every column of the narrower Linear which one it was; -1: none.
std::vector<std::int64_t> HeadPruner::columns_kept(const Shared& shared,
                                                   const std::vector<std::int64_t>& groups) const {
  std::vector<std::int64_t> from(static_cast<std::size_t>(fewer(shared.linear.out)), -1);
  for (const std::size_t role : shared.roles) {
    const Projection& p = *projections()[role];
    const Columns& to = columns_[role];
    const std::vector<std::int64_t> heads = heads_of(groups, p);
    for (std::size_t i = 0; i < heads.size(); ++i) {
      for (std::int64_t element = 0; element < p.width; ++element) {
        const auto at = static_cast<std::size_t>(to.offset + static_cast<std::int64_t>(i) * to.head_stride +
                                                 element * to.element_stride);
        if (at >= from.size() || from[at] >= 0) return {-1};
        from[at] = p.offset + heads[i] * p.head_stride + element * p.element_stride;
      }
    }
  }
  return from;
}

Status HeadPruner::apply(Graph& graph, const std::vector<std::int64_t>& kept) {
  std::vector<std::int64_t> rows;
  for (const std::int64_t group : kept) {
    const std::vector<std::int64_t> mine = output_rows(attention_, group);
    rows.insert(rows.end(), mine.begin(), mine.end());
  }
  OF_ASSIGN(const Matrix out, weight_matrix(*attention_.out));
  forget_types();
  growth_.apply(graph);
  OF_TRY(apply_linears(graph, kept));
  OF_TRY(apply_packed(graph, kept));
  for (const Node* node : score_nodes_) shrink_score(*node);
  const std::vector<std::int64_t> heads = heads_of(kept, attention_.q);
  for (const Mask& mask : masks_) {
    Value* value = mask.node->input(mask.input);
    NodeSpec spec{"Gather", {value}, {{value->name() + "_heads", {}}}, {}, "", ""};
    spec.inputs.push_back(
        graph.add_initializer("heads", Tensor::of<std::int64_t>({static_cast<std::int64_t>(heads.size())}, heads)));
    spec.attributes.emplace_back("axis", static_cast<std::int64_t>(mask.axis));
    Type type = value->type();
    if (type.shape) (*type.shape)[mask.axis] = Dim{static_cast<std::int64_t>(heads.size()), "", ""};
    spec.outputs[0].type = type;
    graph.set_input(*mask.node, mask.input, graph.insert(std::move(spec), mask.node)->output());
  }
  apply_operator();
  OF_TRY(replace_linear(graph, *attention_.out, rows_at(out, rows), nullptr));
  return {};
}

// Dimensions of inner values that may count heads; inference finds them again.
void HeadPruner::forget_types() {
  std::set<std::int64_t> counts;
  for (const Projection* p : projections()) counts.insert({p->heads, p->heads * p->width});
  counts.insert({attention_.heads, attention_.heads * attention_.value_width});
  for (const Node* node : attention_.nodes) {
    for (Value* value : node->outputs()) {
      if (value == nullptr || !value->type().shape || growth_.knows(*value)) continue;
      if (value == attention_.out->output || value == attention_.out->product->output()) continue;
      Type type = value->type();
      for (Dim& dim : *type.shape) {
        if (dim.known() && counts.count(*dim.value) != 0) dim = Dim{};
      }
      value->set_type(type);
    }
  }
}

Status HeadPruner::apply_linears(Graph& graph, const std::vector<std::int64_t>& groups) {
  for (const Shared& shared : shared_) {
    const std::vector<std::int64_t> kept = columns_kept(shared, groups);
    OF_ASSIGN(const Matrix weight, weight_matrix(shared.linear));
    std::vector<double> bias;
    if (shared.linear.bias != nullptr) {
      OF_ASSIGN(const std::vector<double> full, bias_vector(shared.linear));
      for (const std::int64_t column : kept) bias.push_back(full[static_cast<std::size_t>(column)]);
    }
    Value* product = shared.linear.product->output();
    Type type = product->type();
    if (type.shape && !type.shape->empty()) type.shape->back() = Dim{static_cast<std::int64_t>(kept.size()), "", ""};
    product->set_type(type);
    OF_TRY(replace_linear(graph, shared.linear, columns_at(weight, kept), bias.empty() ? nullptr : &bias));
  }
  return {};
}

// Weight and bias inside the operator: q, k and v side by side.
Status HeadPruner::apply_packed(Graph& graph, const std::vector<std::int64_t>& groups) {
  if (attention_.packed_weight == nullptr && attention_.packed_bias == nullptr) return {};
  std::vector<std::int64_t> kept;
  std::int64_t offset = 0;
  for (const Projection* p : projections()) {
    for (const std::int64_t head : heads_of(groups, *p)) {
      for (std::int64_t element = 0; element < p->width; ++element) kept.push_back(offset + head * p->width + element);
    }
    offset += p->heads * p->width;
  }
  Node& node = *attention_.fused;
  for (const Value* packed : {attention_.packed_weight, attention_.packed_bias}) {
    if (packed == nullptr) continue;
    const auto& inputs = node.inputs();
    const auto at = std::find(inputs.begin(), inputs.end(), packed);
    OF_TRY(replace_last_axis(graph, node, static_cast<std::size_t>(at - inputs.begin()), kept));
  }
  return {};
}

void HeadPruner::apply_operator() const {
  if (attention_.fused == nullptr) return;
  Node& node = *attention_.fused;
  for (const char* name : {"num_heads", "q_num_heads", "kv_num_heads"}) {
    if (node.attr_int(name, 0) > 0) node.set_attribute(name, fewer(node.attr_int(name, 0)));
  }
  if (auto sizes = node.attr_ints("qkv_hidden_sizes")) {
    for (std::int64_t& size : *sizes) size = fewer(size);
    node.set_attribute("qkv_hidden_sizes", *sizes);
  }
  // The usual scale follows from the width of a head, which stays.
}

void HeadPruner::shrink_score(const Node& node) const {
  for (Value* output : node.outputs()) {
    if (output == nullptr) continue;
    Type type = output->type();
    if (!type.shape || static_cast<int>(type.shape->size()) < head_axis_) continue;
    Dim& dim = (*type.shape)[type.shape->size() - static_cast<std::size_t>(head_axis_)];
    dim = dim.known() && *dim.value % per_ == 0 ? Dim{fewer(*dim.value), "", ""} : Dim{};
    output->set_type(type);
  }
}

}  // namespace onnxfold
