#include "analysis/structure/linear.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

// A constant of rank 2 feeding `value` directly or through Transpose(perm=[1,0]).
bool find_weight(Value* value, Linear& linear) {
  value = behind_identity(value);
  if (value == nullptr) return false;
  Node* transpose = value->producer();
  if (constant(value) == nullptr && transpose != nullptr && transpose->is("Transpose")) {
    if (!swaps_axes(*transpose)) return false;
    linear.weight_transpose = transpose;
    linear.stored_out_in = true;
    value = behind_identity(transpose->input(0));
  }
  const Tensor* weight = constant(value);
  if (weight == nullptr || weight->rank() != 2 || !is_float(weight->dtype())) return false;
  linear.weight = value;
  return true;
}

bool is_gemm(const Node& node) { return node.is("Gemm") || node.is("FusedGemm", "com.microsoft"); }

void set_dimensions(Linear& linear) {
  const Dims& dims = linear.weight->constant()->dims();
  linear.in = dims[linear.stored_out_in ? 1 : 0];
  linear.out = dims[linear.stored_out_in ? 0 : 1];
}

// Is `value` a constant that adds one number per output column: [out], [1, out], [1, 1, out]...
bool is_bias(const Value* value, std::int64_t out) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->size() != out || tensor->rank() == 0 || !is_float(tensor->dtype())) return false;
  return tensor->dims().back() == out;
}

void find_bias_add(Linear& linear) {
  Node* add = sole_consumer(linear.output);
  if (add == nullptr || !add->is("Add")) return;
  Value* bias = behind_identity(add->input(add->input(0) == linear.output ? 1 : 0));
  if (!is_bias(bias, linear.out)) return;
  // A bias of higher rank than the product would change the rank of the sum.
  const auto rank = linear.output->rank();
  if (constant(bias)->rank() > 1 && (!rank || constant(bias)->rank() > *rank)) return;
  linear.bias_add = add;
  linear.bias = bias;
  linear.output = add->output();
}

std::optional<Linear> match_gemm(const Node& node, Linear linear) {
  if (node.attr_int("transA", 0) != 0) return {};
  if (node.attr_int("transB", 0) != 0) linear.stored_out_in = !linear.stored_out_in;
  linear.alpha = static_cast<double>(node.attr_float("alpha", 1));
  linear.beta = static_cast<double>(node.attr_float("beta", 1));
  set_dimensions(linear);
  if (node.input(2) == nullptr) {
    if (node.is("Gemm")) find_bias_add(linear);
    if (linear.bias != nullptr) linear.beta = 1;
    return linear;
  }
  linear.bias = behind_identity(node.input(2));
  if (!is_bias(linear.bias, linear.out)) return {};
  return linear;
}

std::optional<Linear> match_fused(const Node& node, Linear linear) {
  if (node.attr_int("transA", 0) != 0 || node.attr_int("transBatchA", 0) != 0 || node.attr_int("transBatchB", 0) != 0) {
    return {};
  }
  if (node.attr_int("transB", 0) != 0) linear.stored_out_in = !linear.stored_out_in;
  linear.alpha = static_cast<double>(node.attr_float("alpha", 1));
  set_dimensions(linear);
  find_bias_add(linear);
  return linear;
}

}  // namespace

Value* behind_identity(Value* value) {
  while (value != nullptr && value->producer() != nullptr && value->producer()->is("Identity")) {
    value = value->producer()->input(0);
  }
  return value;
}

std::vector<Node*> Linear::nodes() const {
  std::vector<Node*> all;
  for (Node* node : {weight_transpose, product, bias_add}) {
    if (node != nullptr) all.push_back(node);
  }
  return all;
}

std::optional<Linear> linear_at(const Node& node) {
  const bool fused = node.is("FusedMatMul", "com.microsoft");
  if (!node.is("MatMul") && !node.is("Gemm") && !fused) return {};
  Linear linear;
  linear.product = const_cast<Node*>(&node);
  linear.input = node.input(0);
  linear.output = node.output();
  if (linear.input == nullptr || linear.output == nullptr || !find_weight(node.input(1), linear)) return {};
  if (node.is("Gemm")) return match_gemm(node, linear);
  if (fused) return match_fused(node, linear);
  set_dimensions(linear);
  find_bias_add(linear);
  return linear;
}

std::optional<Linear> linear_inside(const Node& node) {
  if (!node.is("FusedGemm", "com.microsoft")) return {};
  Linear linear;
  linear.product = const_cast<Node*>(&node);
  linear.input = node.input(0);
  linear.output = node.output();
  if (linear.input == nullptr || linear.output == nullptr || !find_weight(node.input(1), linear)) return {};
  linear = match_gemm(node, linear).value_or(Linear());
  if (linear.product == nullptr || linear.bias_add != nullptr) return {};
  return linear;
}

std::optional<Linear> linear_making(const Value* value) {
  if (value == nullptr || value->producer() == nullptr) return {};
  const Node* node = value->producer();
  if (node->is("Add")) {
    for (std::size_t i = 0; i < 2; ++i) {
      const Value* input = node->input(i);
      if (input == nullptr || input->producer() == nullptr) continue;
      const auto linear = linear_at(*input->producer());
      if (linear && linear->bias_add == node) return linear;
    }
    return {};
  }
  auto linear = linear_at(*node);
  if (linear && linear->output != value) {
    // Somebody asks for the product before its bias: the Linear without it.
    linear->output = linear->product->output();
    linear->bias_add = nullptr;
    linear->bias = nullptr;
  }
  return linear;
}

std::vector<Linear> find_linears(const Graph& graph) {
  std::vector<Linear> found;
  for (const Node* node : graph.nodes()) {
    if (auto linear = linear_at(*node)) found.push_back(*linear);
  }
  return found;
}

Result<Matrix> weight_matrix(const Linear& linear) {
  OF_ASSIGN(const std::vector<double> stored, to_doubles(*linear.weight->constant()));
  Matrix matrix{linear.in, linear.out, std::vector<double>(stored.size())};
  for (std::int64_t row = 0; row < linear.in; ++row) {
    for (std::int64_t col = 0; col < linear.out; ++col) {
      const std::int64_t at = linear.stored_out_in ? col * linear.in + row : row * linear.out + col;
      matrix.at(row, col) = linear.alpha * stored[static_cast<std::size_t>(at)];
    }
  }
  return matrix;
}

Result<std::vector<double>> bias_vector(const Linear& linear) {
  if (linear.bias == nullptr) return std::vector<double>(static_cast<std::size_t>(linear.out), 0.0);
  OF_ASSIGN(std::vector<double> bias, to_doubles(*linear.bias->constant()));
  for (double& number : bias) number *= linear.beta;
  return bias;
}

namespace {

void erase_if_unused(Graph& graph, Value* value) {
  if (value == nullptr || value->graph() != &graph || !value->uses().empty() || value->is_graph_input()) return;
  if (value->producer() == nullptr) {
    graph.erase(*value);
  } else if (value->producer()->is("Constant")) {
    graph.erase(*value->producer());
  }
}

// What took the place of a constant of the same shape is found under its name by patterns of later passes, where that
// became free.
void take_name(Graph& graph, Value& made, const std::string& name, const Dims& dims) {
  if (graph.find_in_scope(name) == nullptr && made.constant()->dims() == dims) graph.rename(made, name);
}

// Reads the new weight directly: a Transpose between is dropped by storing it the way the product wants.
void put_weight(Graph& graph, const Linear& linear, Tensor tensor) {
  Value* old = linear.weight;
  const std::string name = old->name();
  const Dims dims = old->constant()->dims();
  Value* made = graph.add_initializer(name, std::move(tensor));
  graph.set_input(*linear.product, 1, made);
  Node* transpose = linear.weight_transpose;
  if (transpose != nullptr && transpose->graph() == &graph && transpose->output()->uses().empty()) {
    graph.erase(*transpose);
  }
  erase_if_unused(graph, old);
  take_name(graph, *made, name, dims);
}

Value* put_bias(Graph& graph, const Linear& linear, Tensor tensor) {
  Value* old = linear.bias;
  const std::string hint = old != nullptr ? old->name() : linear.output->name() + "_bias";
  const Dims dims = old != nullptr ? old->constant()->dims() : Dims();
  Value* made = graph.add_initializer(hint, std::move(tensor));
  if (linear.bias_add != nullptr) {
    graph.set_input(*linear.bias_add, linear.bias_add->input(0) == linear.product->output() ? 1 : 0, made);
  } else if (is_gemm(*linear.product)) {
    graph.set_input(*linear.product, 2, made);
  } else {
    return made;
  }
  erase_if_unused(graph, old);
  take_name(graph, *made, hint, dims);
  return made;
}

// MatMul without bias gets an Add behind it that takes over its readers and its public name.
void add_bias_node(Graph& graph, const Linear& linear, Value* bias) {
  Value* product = linear.product->output();
  const std::vector<Node*> nodes = graph.nodes();
  const auto next = std::next(std::find(nodes.begin(), nodes.end(), linear.product));
  NodeSpec spec{"Add", {product, bias}, {{product->name(), product->type()}}, {}, "", ""};
  Node* add = graph.insert(std::move(spec), next == nodes.end() ? nullptr : *next);
  graph.set_input(*add, 0, bias);  // not a reader of its own input while readers are moved
  graph.replace_all_uses(*product, *add->output());
  graph.set_input(*add, 0, product);
}

}  // namespace

Result<Linear> replace_linear(Graph& graph, const Linear& linear, const Matrix& weight,
                              const std::vector<double>* bias) {
  const DType dtype = linear.weight->constant()->dtype();
  const bool out_in = linear.stored_out_in && linear.weight_transpose == nullptr;
  std::vector<double> stored = weight.data;
  if (out_in) {
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      for (std::int64_t col = 0; col < weight.cols; ++col) {
        stored[static_cast<std::size_t>(col * weight.rows + row)] = weight.at(row, col);
      }
    }
  }
  const Dims dims = out_in ? Dims{weight.cols, weight.rows} : Dims{weight.rows, weight.cols};
  OF_ASSIGN(Tensor weight_tensor, from_doubles(dtype, dims, stored));
  Tensor bias_tensor;
  if (bias != nullptr) {
    OF_ASSIGN(bias_tensor, from_doubles(dtype, {static_cast<std::int64_t>(bias->size())}, *bias));
  }
  Node* product = linear.product;
  if (linear.weight_transpose != nullptr && product->attr_int("transB", 0) != 0) product->remove_attribute("transB");
  if (linear.alpha != 1) product->remove_attribute("alpha");
  if (linear.beta != 1 && bias != nullptr) product->remove_attribute("beta");
  put_weight(graph, linear, std::move(weight_tensor));
  if (bias_tensor.defined()) {
    Value* made = put_bias(graph, linear, std::move(bias_tensor));
    if (linear.bias_add == nullptr && !is_gemm(*product)) add_bias_node(graph, linear, made);
  }
  return product->domain().empty() || !is_gemm(*product) ? *linear_at(*product) : *linear_inside(*product);
}

}  // namespace onnxfold
