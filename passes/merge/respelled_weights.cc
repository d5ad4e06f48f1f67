#include "passes/merge/respelled_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/align/axis_map.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/head_columns.h"

namespace onnxfold {
namespace {

std::vector<std::int64_t> range(std::int64_t begin, std::int64_t count) {
  std::vector<std::int64_t> columns;
  for (std::int64_t i = 0; i < count; ++i) columns.push_back(begin + i);
  return columns;
}

Status refuse(const std::string& where, const std::string& why) {
  return fail(Code::kInvalidArgument, fmt::format("the models do not correspond: at '{}': {}", where, why));
}

}  // namespace

Status RespelledWeights::put(const Value& to, const Node* reader, Tensor tensor) {
  const auto known = made_.find(&to);
  if (known == made_.end()) {
    made_.emplace(&to, std::move(tensor));
    order_.push_back(&to);
    return {};
  }
  OF_ASSIGN(const std::string one, known->second.content_hash());
  OF_ASSIGN(const std::string two, tensor.content_hash());
  if (one == two) return {};
  const bool reads =
      reader != nullptr && std::find(reader->inputs().begin(), reader->inputs().end(), &to) != reader->inputs().end();
  if (!reads) return refuse(to.name(), "the anchor shares this weight, the other model has two that differ");
  extras_.push_back({&to, reader, std::move(tensor)});
  return {};
}

Status RespelledWeights::take_constant(const Value& from, const Value& to, const Node* reader) {
  const Tensor& x = *parameter(&from);
  const Tensor& y = *parameter(&to);
  if (!is_float(x.dtype()) || !is_float(y.dtype())) return {};
  if (x.size() != y.size()) {
    return refuse(to.name(),
                  fmt::format("weight [{}] against [{}]", fmt::join(x.dims(), ","), fmt::join(y.dims(), ",")));
  }
  OF_ASSIGN(const Weight weight, weight_of(from));
  OF_ASSIGN(Tensor tensor, from_doubles(y.dtype(), y.dims(), weight.data));
  if (reader == nullptr && !to.uses().empty()) reader = to.uses().front().node;
  return put(to, reader, std::move(tensor));
}

Status RespelledWeights::take_vector(const Value* from, const Value* to, double missing, const std::string& where) {
  if (to == nullptr && from == nullptr) return {};
  if (to == nullptr) {
    OF_ASSIGN(const Weight weight, weight_of(*from));
    const bool neutral = std::all_of(weight.data.begin(), weight.data.end(), [&](double x) { return x == missing; });
    return neutral ? Status() : refuse(where, "the anchor has no place for '" + from->name() + "'");
  }
  const Tensor& place = *parameter(to);
  std::vector<double> numbers(static_cast<std::size_t>(place.size()), missing);
  if (from != nullptr) {
    OF_ASSIGN(Weight weight, weight_of(*from));
    if (weight.data.size() != numbers.size()) {
      return refuse(where, fmt::format("vectors of {} and {} elements", weight.data.size(), numbers.size()));
    }
    numbers = std::move(weight.data);
  }
  OF_ASSIGN(Tensor tensor, from_doubles(place.dtype(), place.dims(), numbers));
  return put(*to, nullptr, std::move(tensor));
}

Status RespelledWeights::take_norm(const Norm& from, const Norm& to) {
  const std::string where = to.nodes.front()->label();
  OF_TRY(take_vector(from.gain, to.gain, 1, where));
  return take_vector(from.bias, to.bias, 0, where);
}

Status RespelledWeights::take_columns(const Linear& from, const Places& source, const Linear& to, const Places& target,
                                      double factor) {
  const std::string where = to.product->label();
  if (from.in != to.in || source.size() != target.size()) {
    return refuse(where, fmt::format("Linears {} -> {} and {} -> {}", from.in, source.size(), to.in, target.size()));
  }
  OF_ASSIGN(const Matrix weight, weight_matrix(from));
  OF_ASSIGN(const std::vector<double> bias, bias_vector(from));
  const auto [found, fresh] = column_of_.emplace(to.product, columns_.size());
  if (fresh)
    columns_.push_back({to, Matrix(to.in + 1, to.out), std::vector<char>(static_cast<std::size_t>(to.out), 0)});
  Columns& columns = columns_[found->second];
  for (std::size_t i = 0; i < source.size(); ++i) {
    const std::int64_t a = source[i], b = target[i];
    if (a < 0 || a >= weight.cols || b < 0 || b >= to.out) return refuse(where, "columns of heads do not fit");
    const bool again = columns.filled[static_cast<std::size_t>(b)] != 0;
    columns.filled[static_cast<std::size_t>(b)] = 1;
    for (std::int64_t row = 0; row <= to.in; ++row) {
      const double x = factor * (row < to.in ? weight.at(row, a) : bias[static_cast<std::size_t>(a)]);
      double& place = columns.whole.at(row, b);
      if (again && place != x) return refuse(where, "it stands in places where the other model has different weights");
      place = x;
    }
  }
  return {};
}

Status RespelledWeights::take_linear(const Linear& from, const Linear& to) {
  return take_columns(from, range(0, from.out), to, range(0, to.out), 1);
}

namespace {

// The Linear inside of com.microsoft Attention, which makes q, k and v side by side.
std::optional<Linear> packed_linear(const Attention& attention) {
  if (attention.packed_weight == nullptr) return {};
  const Tensor& weight = *parameter(attention.packed_weight);
  Linear linear;
  linear.product = attention.fused;
  linear.input = attention.input;
  linear.output = attention.context;
  linear.weight = attention.packed_weight;
  linear.bias = attention.packed_bias;
  linear.in = weight.dims()[0];
  linear.out = weight.dims()[1];
  return linear;
}

Projection with(const std::optional<Linear>& packed, Projection projection) {
  if (packed) projection.linear = packed;
  return projection;
}

bool constant_or_none(const Value* value) { return value == nullptr || parameter(value) != nullptr; }

}  // namespace

Status RespelledWeights::take_projection(const Projection& from, const Projection& to, double factor) {
  if (from.linear.has_value() != to.linear.has_value()) {
    return refuse(to.source == nullptr ? "attention" : to.source->name(), "only one is made by a Linear");
  }
  if (from.norm && to.norm) OF_TRY(take_norm(*from.norm, *to.norm));
  if (!to.linear) return {};
  if (from.head_stride <= 0 || to.head_stride <= 0 || from.heads != to.heads || from.width != to.width) {
    return refuse(to.linear->product->label(), "columns of heads cannot be told");
  }
  return take_columns(*from.linear, head_columns(from), *to.linear, head_columns(to), factor);
}

Status RespelledWeights::take_attention(const Attention& from, const Attention& to) {
  const std::string where = to.output->producer()->label();
  const std::optional<Linear> first = packed_linear(from), second = packed_linear(to);
  if ((!first && from.packed_bias != nullptr) || (!second && to.packed_bias != nullptr)) {
    return refuse(where, "biases inside of MultiHeadAttention");
  }
  if (!constant_or_none(from.packed_bias) || !constant_or_none(to.packed_bias)) {
    return refuse(where, "the bias inside of a fused attention operator is not constant");
  }
  if (from.q.norm.has_value() != to.q.norm.has_value() || from.k.norm.has_value() != to.k.norm.has_value()) {
    return refuse(where, "only one has norms of queries or keys");
  }
  // Between Linear and softmax stands a factor: wherever it is, the product has to be the same (but for half
  // precision).
  double factor = 1;
  if (from.scale && to.scale && *to.scale != 0 && std::abs(*from.scale / *to.scale - 1) > 2e-3) {
    factor = *from.scale / *to.scale;
  }
  if (factor != 1 && to.q.norm) return refuse(where, "scores are scaled differently behind norms");
  OF_TRY(take_projection(with(first, from.q), with(second, to.q), factor));
  OF_TRY(take_projection(with(first, from.k), with(second, to.k), 1));
  OF_TRY(take_projection(with(first, from.v), with(second, to.v), 1));
  if (from.inner_norm && to.inner_norm) OF_TRY(take_norm(*from.inner_norm, *to.inner_norm));
  if (from.out.has_value() != to.out.has_value()) return refuse(where, "only one ends in a Linear");
  return to.out ? take_linear(*from.out, *to.out) : Status();
}

namespace {

// ONNX Runtime adds the bias in the activation's operator.
Linear up_of(const FeedForward& layer) {
  Linear up = layer.up;
  const bool fused = layer.fused_bias != nullptr && up.bias == nullptr && layer.fused_bias != up.product;
  if (fused && layer.fused_bias->input(1) != nullptr && parameter(layer.fused_bias->input(1)) != nullptr) {
    up.bias = layer.fused_bias->input(1);
    up.bias_add = layer.fused_bias;
  }
  return up;
}

}  // namespace

Status RespelledWeights::take_feed_forward(const FeedForward& from, const FeedForward& to) {
  const std::string where = to.up.product->label();
  const auto hidden = [](const FeedForward& layer) { return layer.gate ? layer.hidden : layer.up.out; };
  if (from.gate.has_value() != to.gate.has_value() || from.gated() != to.gated() || hidden(from) != hidden(to)) {
    return refuse(where, "feed-forward layers of different kinds");
  }
  if (to.gated() && !to.gate) return refuse(where, "the gate is not understood");
  const std::int64_t count = hidden(to);
  OF_TRY(take_columns(up_of(from), range(from.up_offset, count), up_of(to), range(to.up_offset, count), 1));
  if (to.gate) {
    OF_TRY(take_columns(*from.gate, range(from.gate_offset, count), *to.gate, range(to.gate_offset, count), 1));
  }
  if (from.inner_norm.has_value() != to.inner_norm.has_value()) return refuse(where, "only one has an inner norm");
  if (to.inner_norm) OF_TRY(take_norm(*from.inner_norm, *to.inner_norm));
  return take_linear(from.down, to.down);
}

Status RespelledWeights::finish() {
  for (const Columns& columns : columns_) {
    if (std::any_of(columns.filled.begin(), columns.filled.end(), [](char x) { return x == 0; })) {
      return refuse(columns.linear.product->label(), "some of its columns have no counterpart");
    }
    OF_TRY(put_linear(columns));
  }
  return {};
}

Status RespelledWeights::put_linear(const Columns& columns) {
  const Linear& to = columns.linear;
  Matrix weight(to.in, to.out);
  std::copy_n(columns.whole.data.begin(), weight.data.size(), weight.data.begin());
  std::vector<double> bias(columns.whole.data.end() - to.out, columns.whole.data.end());
  if (to.alpha != 1) {
    for (double& x : weight.data) x /= to.alpha;
  }
  if (to.beta != 1) {
    for (double& x : bias) x /= to.beta;
  }
  if (to.stored_out_in) weight = transposed(weight);
  const Tensor& place = *parameter(to.weight);
  OF_ASSIGN(Tensor tensor, from_doubles(place.dtype(), place.dims(), weight.data));
  OF_TRY(put(*to.weight, to.weight_transpose != nullptr ? to.weight_transpose : to.product, std::move(tensor)));
  if (to.bias == nullptr) {
    const bool none = std::all_of(bias.begin(), bias.end(), [](double x) { return x == 0; });
    return none ? Status() : refuse(to.product->label(), "only the other model has a bias here");
  }
  const Tensor& vector = *parameter(to.bias);
  if (vector.size() != to.out) return refuse(to.product->label(), "the bias is not one number for each column");
  OF_ASSIGN(tensor, from_doubles(vector.dtype(), vector.dims(), bias));
  return put(*to.bias, to.bias_add != nullptr ? to.bias_add : to.product, std::move(tensor));
}

Status RespelledWeights::write(Graph& graph) const {
  for (const Extra& extra : extras_) {
    Value* copy = graph.add_initializer(extra.constant->name(), extra.tensor);
    for (const Use& use : std::vector<Use>(extra.constant->uses())) {
      if (use.node == extra.reader) use.node->graph()->set_input(*use.node, static_cast<std::size_t>(use.index), copy);
    }
  }
  for (const Value* value : order_) {
    Value* place = value->graph()->find(value->name());
    if (place != nullptr) replace_constant(*place, made_.at(value));
  }
  return {};
}

}  // namespace onnxfold
