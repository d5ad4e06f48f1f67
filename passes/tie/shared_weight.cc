#include "passes/tie/shared_weight.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool may_transpose(const Node& product) { return !product.is("MatMul"); }
bool transposes(const Node& product) { return may_transpose(product) && product.attr_int("transB", 0) != 0; }

// Deferred, so that no more than one weight is in memory.
Tensor transposed_tensor(const Tensor& tensor) {
  const std::int64_t rows = tensor.dims()[0], cols = tensor.dims()[1];
  const auto width = static_cast<std::size_t>(tensor.size() == 0 ? 1 : tensor.nbytes() / tensor.size());
  return Tensor::deferred(tensor.dtype(), {cols, rows}, [tensor, rows, cols, width]() -> Result<Buffer> {
    OF_ASSIGN(const Bytes bytes, tensor.bytes());
    Buffer out(bytes.size());
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t col = 0; col < cols; ++col) {
        const auto from = static_cast<std::size_t>(row * cols + col) * width;
        const auto to = static_cast<std::size_t>(col * rows + row) * width;
        std::copy_n(bytes.data() + from, width, out.data() + to);
      }
    }
    return out;
  });
}

void erase_unread(Graph& graph, Value* value) {
  if (value->graph() != &graph || !value->uses().empty() || value->is_graph_input()) return;
  if (value->producer() == nullptr) {
    graph.erase(*value);
  } else if (value->producer()->is("Constant") || value->producer()->is("Identity")) {
    Value* before = value->producer()->input(0);
    graph.erase(*value->producer());
    if (before != nullptr) erase_unread(graph, before);
  }
}

const Node* node_after(const Graph& graph, const Node& node) {
  const std::vector<Node*> nodes = graph.nodes();
  const auto next = std::next(std::find(nodes.begin(), nodes.end(), &node));
  return next == nodes.end() ? nullptr : *next;
}

Node* add_product(Graph& graph, Value* x, Value* weight, const Type& type, const std::string& name,
                  const Node* before) {
  NodeSpec spec{"MatMul", {x, weight}, {{name, type}}, {}, "", ""};
  return graph.insert(std::move(spec), before);
}

}  // namespace

Value* share_weight(Graph& graph, const std::vector<Linear>& linears, const Tensor& weight) {
  const bool out_in = std::all_of(linears.begin(), linears.end(), [](const Linear& linear) {
    return linear.weight_transpose == nullptr && transposes(*linear.product);
  });
  Value* shared = graph.add_initializer(linears[0].weight->name(), out_in ? transposed_tensor(weight) : weight);
  for (const Linear& linear : linears) {
    Value* old = linear.product->input(1);
    graph.set_input(*linear.product, 1, shared);
    if (!out_in && transposes(*linear.product)) linear.product->remove_attribute("transB");
    if (linear.alpha != 1) linear.product->remove_attribute("alpha");
    if (linear.weight_transpose != nullptr && linear.weight_transpose->output()->uses().empty() &&
        linear.weight_transpose->graph() == &graph) {
      Value* source = linear.weight_transpose->input(0);
      graph.erase(*linear.weight_transpose);
      old = source;
    }
    if (!old->erased()) erase_unread(graph, old);
  }
  return shared;
}

Status replace_bias(Graph& graph, const Linear& linear, const std::vector<double>& bias) {
  if (linear.beta == 0) return fail(Code::kUnsupported, "a bias with the factor 0");
  std::vector<double> numbers = bias;
  for (double& number : numbers) number /= linear.beta;
  const Tensor& old = *linear.bias->constant();
  OF_ASSIGN(Tensor made, from_doubles(old.dtype(), old.dims(), numbers));
  Node& reader = linear.bias_add != nullptr ? *linear.bias_add : *linear.product;
  for (std::size_t i = 0; i < reader.inputs().size(); ++i) {
    Value* value = reader.input(i);
    if (value == nullptr || behind_identity(value) != linear.bias) continue;
    graph.set_input(reader, i, graph.add_initializer(linear.bias->name(), std::move(made)));
    if (!value->erased()) erase_unread(graph, value);
    return {};
  }
  return fail(Code::kInternal, "a bias that nothing adds");
}

Status add_correction(Graph& graph, const Linear& linear, Tensor a, Tensor b) {
  const std::string name = linear.output->name();
  Type thin = linear.input->type();
  if (thin.shape && !thin.shape->empty()) thin.shape->back() = Dim{a.dims()[1], "", ""};
  const Type type = linear.output->type();
  Value* from = graph.add_initializer(name + "_lora_A", std::move(a));
  Value* to = graph.add_initializer(name + "_lora_B", std::move(b));
  const Node* after = node_after(graph, *linear.output->producer());
  Node* down = add_product(graph, linear.input, from, thin, name + "_lora", after);
  Node* up = add_product(graph, down->output(), to, type, name + "_correction", after);
  // Not a reader of its own input while readers are moved.
  NodeSpec spec{"Add", {up->output(), up->output()}, {{name + "_corrected", type}}, {}, "", ""};
  Node* add = graph.insert(std::move(spec), after);
  graph.replace_all_uses(*linear.output, *add->output());
  graph.set_input(*add, 0, linear.output);
  return {};
}

}  // namespace onnxfold
