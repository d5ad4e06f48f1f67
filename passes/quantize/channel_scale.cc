#include "passes/quantize/channel_scale.h"

#include <algorithm>
#include <map>

#include "ir/match.h"
#include "passes/last_axis.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// Nothing but this Linear reads its weight.
bool owns_weight(const Linear& linear) {
  return linear.weight->uses().size() == 1 && linear.product->input(1)->uses().size() == 1 &&
         (linear.bias == nullptr || linear.bias->uses().size() == 1);
}

bool asks_for_shape(const Use& use) { return use.node != nullptr && (use.node->is("Shape") || use.node->is("Size")); }

// The one node that reads the numbers of `value`; Shape does not.
const Node* sole_reader(const Value* value) {
  const Node* reader = nullptr;
  for (const Use& use : value->uses()) {
    if (asks_for_shape(use)) continue;
    if (reader != nullptr || use.node == nullptr || use.node->graph() != value->graph()) return nullptr;
    reader = use.node;
  }
  return reader;
}

// Reshape and its like, which exports put around Gemm.
bool moves_rows(const Node& node, std::int64_t width) { return !node.is("ReduceMean") && keeps_last_axis(node, width); }

// Adds the Linears that read `value`, rows moved or not; false if anything else does.
bool collect_readers(const Value& value, std::optional<std::int64_t> width, std::vector<Linear>& readers) {
  for (const Use& use : value.uses()) {
    if (asks_for_shape(use)) continue;
    if (use.node == nullptr || use.index != 0 || use.node->graph() != value.graph()) return false;
    if (width && moves_rows(*use.node, *width)) {
      for (const Value* output : use.node->outputs()) {
        if (output != nullptr && !collect_readers(*output, width, readers)) return false;
      }
      continue;
    }
    auto linear = linear_at(*use.node);
    if (!linear || linear->input != &value || !owns_weight(*linear)) return false;
    if (width && linear->in != *width) return false;
    readers.push_back(*linear);
  }
  return true;
}

// All Linears that read `value`, if nothing else does.
std::optional<std::vector<Linear>> readers_of(const Value& value) {
  std::optional<std::int64_t> width;
  if (const auto& shape = value.type().shape; shape && !shape->empty() && shape->back().known()) {
    width = *shape->back().value;
  }
  std::vector<Linear> readers;
  if (!collect_readers(value, width, readers) || readers.empty()) return {};
  return readers;
}

// The Linear that makes `value`, rows moved in between or not; nothing else reads what it makes.
std::optional<Linear> linear_behind(const Value* value) {
  while (sole_reader(value) != nullptr) {
    if (auto direct = linear_making(value)) return direct;
    const Node* node = value->producer();
    const auto& shape = value->type().shape;
    if (node == nullptr || !shape || shape->empty() || !shape->back().known()) return {};
    if (!moves_rows(*node, *shape->back().value) || node->outputs().size() != 1) return {};
    value = node->input(0);
  }
  return {};
}

// The Linear whose output channels are the channels of `value`: itself, cut at zero, or times something.
std::optional<Linear> earlier_of(const Value& value) {
  if (auto direct = linear_making(&value)) return direct;
  const Node* node = value.producer();
  if (node == nullptr) return {};
  if (node->is("Relu") || node->is("LeakyRelu")) return linear_behind(node->input(0));
  if (!node->is("Mul")) return {};
  for (const std::size_t i : {1U, 0U}) {
    const Value* operand = node->input(i);
    if (constant(node->input(1 - i)) != nullptr) continue;
    auto linear = linear_behind(operand);
    const auto rank = value.rank();
    if (linear && rank && rank == operand->rank() && rank == node->input(1 - i)->rank()) return linear;
  }
  return {};
}

// Nothing between `from` and `to` (found backwards along first inputs) has other readers.
bool alone_between(const Value* from, const Value* to) {
  for (int step = 0; step < 16; ++step) {
    if (to == from) return sole_reader(to) != nullptr;
    const Node* node = to != nullptr ? to->producer() : nullptr;
    if (node == nullptr || sole_reader(to) == nullptr) return false;
    if (!node->is("Transpose") && !node->is("Reshape") && !node->is("Identity") && !node->is("Cast")) return false;
    to = node->input(0);
  }
  return false;
}

bool only_reaches_context(const Attention& attention) {
  const Projection& v = attention.v;
  if (sole_reader(v.linear->output) == nullptr) return false;
  for (const Node* node : v.nodes) {
    for (const Value* output : node->outputs()) {
      if (output != nullptr && !output->uses().empty() && sole_reader(output) == nullptr) return false;
    }
  }
  return alone_between(attention.context, attention.out->input);
}

// Divides the constant that nodes of a norm read as gain or bias, Identity nodes or not between.
Status divide_parameter(Graph& graph, const Norm& norm, Value& value, const std::vector<double>& factors) {
  const Tensor& tensor = *constant(&value);
  OF_ASSIGN(std::vector<double> numbers, to_doubles(tensor));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] /= factors[i % factors.size()];
  OF_ASSIGN(Tensor divided, from_doubles(tensor.dtype(), tensor.dims(), numbers));
  const std::string name = value.name();
  Value* made = add_constant(graph, std::move(divided), name);
  for (Node* node : norm.nodes) {
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      Value* input = node->input(i);
      if (input == nullptr || behind_identity(input) != &value) continue;
      graph.set_input(*node, i, made);
      if (input != &value) erase_if_unused(graph, *input);
    }
  }
  if (!value.erased()) erase_if_unused(graph, value);
  if (graph.find_in_scope(name) == nullptr) graph.rename(*made, name);
  return {};
}

Status scale_rows(Graph& graph, const Linear& linear, const std::vector<double>& factors) {
  OF_ASSIGN(Matrix matrix, weight_matrix(linear));
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    for (std::int64_t j = 0; j < matrix.cols; ++j) matrix.at(i, j) *= factors[static_cast<std::size_t>(i)];
  }
  const auto replaced = replace_linear(graph, linear, matrix, nullptr);
  return replaced ? Status() : fail(replaced.error());
}

Status divide_columns(Graph& graph, const Linear& linear, const std::vector<double>& factors) {
  OF_ASSIGN(Matrix matrix, weight_matrix(linear));
  OF_ASSIGN(std::vector<double> bias, bias_vector(linear));
  for (std::int64_t j = 0; j < matrix.cols; ++j) {
    bias[static_cast<std::size_t>(j)] /= factors[static_cast<std::size_t>(j)];
    for (std::int64_t i = 0; i < matrix.rows; ++i) matrix.at(i, j) /= factors[static_cast<std::size_t>(j)];
  }
  const auto replaced = replace_linear(graph, linear, matrix, linear.bias != nullptr ? &bias : nullptr);
  return replaced ? Status() : fail(replaced.error());
}

}  // namespace

ScaleSites::ScaleSites(Graph& graph) : graph_(graph) {
  for (Attention& attention : find_attentions(graph)) {
    if (attention.v.linear && attention.out) attentions_.push_back(std::move(attention));
  }
}

std::optional<ScaleSite> ScaleSites::behind_norm(const Norm& norm) const {
  if (norm.gain == nullptr || constant(norm.gain) == nullptr || norm.gain == norm.bias) return {};
  if (norm.bias != nullptr && constant(norm.bias) == nullptr) return {};
  auto readers = readers_of(*norm.output);
  if (!readers) return {};
  ScaleSite site{norm.output, std::move(*readers), norm, {}, {}};
  if (constant(norm.gain)->size() != site.channels()) return {};
  return site;
}

std::optional<ScaleSite> ScaleSites::behind_linear(Value& value) const {
  auto earlier = earlier_of(value);
  if (!earlier || !owns_weight(*earlier)) return {};
  auto readers = readers_of(value);
  if (!readers || earlier->out != readers->front().in) return {};
  ScaleSite site{&value, std::move(*readers), {}, std::move(*earlier), {}};
  for (std::int64_t i = 0; i < site.channels(); ++i) site.columns.push_back(i);
  return site;
}

// Probabilities mix rows, not channels: a channel of the context is a column of the value projection.
std::optional<ScaleSite> ScaleSites::behind_attention(const Attention& attention) const {
  const Projection& v = attention.v;
  if (attention.inner_norm || attention.gate != nullptr || attention.packed_weight != nullptr) return {};
  if (attention.packed_bias != nullptr || v.norm || v.past != nullptr || v.present != nullptr || v.heads <= 0)
    return {};
  if (attention.heads % v.heads != 0 || attention.out->in != attention.heads * attention.value_width) return {};
  const auto earlier = linear_at(*v.linear->product);
  if (!earlier || !owns_weight(*earlier) || !only_reaches_context(attention)) return {};
  auto readers = readers_of(*attention.out->input);
  if (!readers) return {};
  ScaleSite site{attention.out->input, std::move(*readers), {}, *earlier, {}};
  const std::int64_t group = attention.heads / v.heads;
  for (std::int64_t head = 0; head < attention.heads; ++head) {
    for (std::int64_t d = 0; d < attention.value_width; ++d) {
      const std::int64_t column = v.offset + head / group * v.head_stride + d * v.element_stride;
      if (column < 0 || column >= earlier->out) return {};
      site.columns.push_back(column);
    }
  }
  return site;
}

std::vector<ScaleSite> ScaleSites::find(PassContext* context) const {
  std::vector<ScaleSite> sites;
  for (const Norm& norm : find_norms(graph_)) {
    if (norm.gain == nullptr || constant(norm.gain) == nullptr) continue;
    if (auto site = behind_norm(norm)) {
      sites.push_back(std::move(*site));
    } else if (context != nullptr) {
      context->skipped(norm.last()->label(), "something else than Linears of their own weights reads the norm");
    }
  }
  for (const Attention& attention : attentions_) {
    if (auto site = behind_attention(attention)) sites.push_back(std::move(*site));
  }
  for (const Node* node : graph_.nodes()) {
    for (Value* output : node->outputs()) {
      if (output == nullptr || output->uses().empty()) continue;
      if (auto site = behind_linear(*output)) sites.push_back(std::move(*site));
    }
  }
  return sites;
}

std::optional<ScaleSite> ScaleSites::at(Value& value) const {
  for (const Norm& norm : find_norms(graph_)) {
    if (norm.output == &value) return behind_norm(norm);
  }
  for (const Attention& attention : attentions_) {
    if (attention.out->input == &value) return behind_attention(attention);
  }
  return behind_linear(value);
}

Status ScaleSites::apply(const ScaleSite& site, const std::vector<double>& factors) {
  for (const Linear& reader : site.readers) OF_TRY(scale_rows(graph_, reader, factors));
  if (site.norm) {
    OF_TRY(divide_parameter(graph_, *site.norm, *site.norm->gain, factors));
    return site.norm->bias != nullptr ? divide_parameter(graph_, *site.norm, *site.norm->bias, factors) : Status();
  }
  const Linear earlier = *linear_at(*site.earlier->product);  // a reader's weight may have been its own neighbour
  std::vector<double> by_column(static_cast<std::size_t>(earlier.out), 1.0);
  for (std::size_t i = 0; i < factors.size(); ++i) by_column[static_cast<std::size_t>(site.columns[i])] = factors[i];
  return divide_columns(graph_, earlier, by_column);
}

void share_by_column(const ScaleSite& site, std::vector<double>& numbers) {
  std::map<std::int64_t, double> most;
  for (std::size_t i = 0; i < site.columns.size(); ++i) {
    const auto [found, fresh] = most.try_emplace(site.columns[i], numbers[i]);
    if (!fresh) found->second = std::max(found->second, numbers[i]);
  }
  for (std::size_t i = 0; i < site.columns.size(); ++i) numbers[i] = most.at(site.columns[i]);
}

}  // namespace onnxfold
