#include "passes/reparam/attention/packed_attention.h"

#include <algorithm>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// Columns [offset, offset + count) of `from` behind those of `to`.
void append(Matrix& to, const Matrix& from, std::int64_t offset, std::int64_t count) {
  Matrix joined{from.rows, to.cols + count, {}};
  joined.data.resize(static_cast<std::size_t>(joined.rows * joined.cols));
  for (std::int64_t row = 0; row < joined.rows; ++row) {
    for (std::int64_t col = 0; col < to.cols; ++col) joined.at(row, col) = to.at(row, col);
    for (std::int64_t col = 0; col < count; ++col) joined.at(row, to.cols + col) = from.at(row, offset + col);
  }
  to = std::move(joined);
}

// The numbers of one operator, with the norm before it when that is to be folded.
struct Numbers3 {
  Matrix weight;
  std::vector<double> bias;
};

Result<Numbers3> numbers_of(const AttentionBranch& branch, bool fold, double factor) {
  const Attention& a = branch.attention;
  const Tensor& stored = *a.packed_weight->constant();
  Numbers3 numbers;
  numbers.weight = {stored.dims()[0], stored.dims()[1], {}};
  OF_ASSIGN(numbers.weight.data, to_doubles(stored));
  numbers.bias.assign(static_cast<std::size_t>(numbers.weight.cols), 0.0);
  if (a.packed_bias != nullptr) {
    OF_ASSIGN(numbers.bias, to_doubles(*a.packed_bias->constant()));
  }
  if (fold) OF_TRY(fold_affine(*branch.inputs[0].norm, numbers.weight, numbers.bias));
  const std::int64_t queries = a.heads * a.head_width;
  for (std::int64_t col = 0; col < queries; ++col) {
    for (std::int64_t row = 0; row < numbers.weight.rows; ++row) numbers.weight.at(row, col) *= factor;
    numbers.bias[static_cast<std::size_t>(col)] *= factor;
  }
  return numbers;
}

Status put(Graph& graph, Node& node, std::size_t input, Dims dims, const std::vector<double>& numbers) {
  Value* old = node.input(input);
  const DType dtype = node.input(1)->dtype();
  OF_ASSIGN(Tensor tensor, from_doubles(dtype, std::move(dims), numbers));
  const std::string hint = old != nullptr ? old->name() : node.output()->name() + "_bias";
  graph.set_input(node, input, add_constant(graph, std::move(tensor), hint));
  if (old != nullptr) erase_if_unused(graph, *old);
  return {};
}

// Rows of the output Linears one below the other.
Status stack_outputs(Graph& graph, const std::vector<AttentionBranch>& group) {
  const Linear& host = *group.front().attention.out;
  Matrix weight{0, host.out, {}};
  std::vector<double> bias(static_cast<std::size_t>(host.out), 0.0);
  bool biased = false;
  for (const AttentionBranch& branch : group) {
    OF_ASSIGN(Matrix rows, weight_matrix(*branch.attention.out));
    OF_ASSIGN(const std::vector<double> shift, bias_vector(*branch.attention.out));
    OF_ASSIGN(const std::vector<double> factor, factor_of(branch.term, host.out));
    for (std::size_t c = 0; c < bias.size(); ++c) {
      bias[c] += factor[c] * shift[c];
      for (std::int64_t row = 0; row < rows.rows; ++row) rows.at(row, static_cast<std::int64_t>(c)) *= factor[c];
    }
    biased = biased || branch.attention.out->bias != nullptr;
    weight.rows += rows.rows;
    weight.data.insert(weight.data.end(), rows.data.begin(), rows.data.end());
  }
  OF_TRY(replace_linear(graph, host, weight, biased ? &bias : nullptr));
  return {};
}

}  // namespace

std::string packed_attention_problem(const Attention& attention) {
  const Node& node = *attention.fused;
  const Tensor* bias = constant(attention.packed_bias);
  if (attention.packed_bias != nullptr &&
      (bias == nullptr || bias->size() != attention.packed_weight->constant()->dims()[1]))
    return "its bias is not constant";
  if (node.input(4) != nullptr || node.output(1) != nullptr || node.input(6) != nullptr)
    return "it has a key-value cache";
  if (Value* mask = node.input(5)) {
    if (!mask->rank() ||
        (*mask->rank() > 2 && (*mask->type().shape)[static_cast<std::size_t>(*mask->rank() - 3)].value != 1))
      return "its mask has an axis of heads";
  }
  if (Value* mask = node.input(3)) {  // of keys, or of batch, queries and keys; four axes name heads
    if (!mask->rank() || *mask->rank() > 3) return "its mask has an axis of heads";
  }
  return {};
}

Status merge_packed_attentions(Graph& graph, const std::vector<AttentionBranch>& group) {
  const AttentionBranch& host = group.front();
  Node& node = *host.attention.fused;
  const bool fold = std::any_of(group.begin(), group.end(), [&](const AttentionBranch& branch) {
    return !same_input(host.inputs[0], branch.inputs[0]);
  });
  Matrix parts[3];
  std::vector<double> biases[3];
  std::int64_t heads = 0;
  for (const AttentionBranch& branch : group) {
    const Attention& a = branch.attention;
    OF_ASSIGN(const Numbers3 numbers, numbers_of(branch, fold, *a.scale / *host.attention.scale));
    for (std::size_t i = 0; i < 3; ++i) {
      const Projection& p = *branch.projections()[i];
      append(parts[i], numbers.weight, p.offset, p.heads * p.width);
      biases[i].insert(biases[i].end(), numbers.bias.begin() + p.offset,
                       numbers.bias.begin() + p.offset + p.heads * p.width);
    }
    heads += a.heads;
  }
  std::vector<std::int64_t> sizes;
  Matrix weight = parts[0];
  std::vector<double> bias = biases[0];
  for (std::size_t i = 0; i < 3; ++i) sizes.push_back(parts[i].cols);
  for (std::size_t i = 1; i < 3; ++i) {
    append(weight, parts[i], 0, parts[i].cols);
    bias.insert(bias.end(), biases[i].begin(), biases[i].end());
  }
  // Without a scale of its own the operator takes the root of the width of its heads, which stays.
  OF_TRY(put(graph, node, 1, {weight.rows, weight.cols}, weight.data));
  const bool biased = std::any_of(bias.begin(), bias.end(), [](double number) { return number != 0; });
  if (biased || node.input(2) != nullptr) OF_TRY(put(graph, node, 2, {weight.cols}, bias));
  node.set_attribute("num_heads", heads);
  if (node.attr_ints("qkv_hidden_sizes")) node.set_attribute("qkv_hidden_sizes", sizes);
  if (fold) {
    OF_ASSIGN(Value * plain, plain_norm(graph, *host.inputs[0].norm));
    graph.set_input(node, 0, plain);
    erase_if_unused(graph, *host.inputs[0].value);
  }
  Type type = node.output()->type();
  if (type.shape && !type.shape->empty()) {
    type.shape->back() = Dim{sizes[2], "", ""};
    node.output()->set_type(type);
  }
  drop_factors(graph, host.term);
  return stack_outputs(graph, group);
}

}  // namespace onnxfold
