// a = f(x), b = f(x) => a = f(x), b := a
//
// Two nodes are one when operator, inputs and attributes are equal. Add, Mul, And, Or, Xor, Equal, Max and Min of two
// operands do not mind their order. Not merged: operators that are not deterministic, nodes with subgraphs, and two
// public results (each keeps its own name). Exact. One walk in topological order with a hash table.
#include <algorithm>
#include <map>
#include <string>
#include <type_traits>
#include <unordered_map>

#include "formats/onnx/schema.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

template <typename T>
void append_bytes(std::string& key, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  key.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append(std::string& key, float value) { append_bytes(key, value); }
void append(std::string& key, std::int64_t value) { append_bytes(key, value); }
void append(std::string& key, const std::string& value) {
  append_bytes(key, value.size());
  key += value;
}
void append(std::string& key, const Type& value) { append(key, to_string(value)); }
void append(std::string& key, const Tensor& value) {
  const auto hash = value.content_hash();
  if (hash) {
    key += *hash;
  } else {
    append_bytes(key, value.identity());
  }
}
template <typename T>
requires requires(std::string& key, const T& value) { append(key, value); }
void append(std::string& key, const std::vector<T>& values) {
  append_bytes(key, values.size());
  for (const T& value : values) append(key, value);
}

bool is_commutative(const Node& node) {
  if (!node.domain().empty() || node.inputs().size() != 2 || node.attribute("axis") != nullptr) return false;
  for (const std::string_view op : {"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min"}) {
    if (node.op_type() == op) return true;
  }
  return false;
}

// Everything that decides what the node computes; empty when it cannot be compared.
std::string key_of(const Node& node) {
  std::string key;
  append(key, node.domain());
  append(key, node.op_type());
  append(key, node.overload);
  std::vector<const Value*> inputs(node.inputs().begin(), node.inputs().end());
  if (is_commutative(node)) std::sort(inputs.begin(), inputs.end(), std::less<>());
  for (const Value* input : inputs) append_bytes(key, input);
  append_bytes(key, node.outputs().size());
  std::vector<const Attribute*> attributes;
  for (const Attribute& attribute : node.attributes()) attributes.push_back(&attribute);
  std::sort(attributes.begin(), attributes.end(),
            [](const Attribute* a, const Attribute* b) { return a->name < b->name; });
  bool comparable = true;
  for (const Attribute* attribute : attributes) {
    append(key, attribute->name);
    append_bytes(key, attribute->value.index());
    std::visit(
        [&](const auto& value) {
          if constexpr (requires { append(key, value); }) {
            append(key, value);
          } else {
            comparable = false;
          }
        },
        attribute->value);
  }
  return comparable ? key : std::string();
}

class MergeCommonSubexpressions final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    std::unordered_map<std::string, Node*> first;
    for (Node* node : graph.nodes()) {
      if (node->outputs().empty() || !node->subgraphs().empty() || !node->opaque.empty() || !deterministic(*node))
        continue;
      std::string key = key_of(*node);
      if (key.empty()) continue;
      const auto [found, fresh] = first.emplace(std::move(key), node);
      if (!fresh && merge(graph, *node, *found->second)) changed = true;
    }
    return changed;
  }

 private:
  bool deterministic(const Node& node) {
    const std::string name = node.domain() + "::" + node.op_type();
    const auto [found, fresh] = deterministic_.try_emplace(name, true);
    if (fresh) {
      const OperatorInfo info = operator_info(node.domain(), node.op_type(), node.opset());
      // An unknown operator may keep state or draw random numbers.
      found->second = info.known && info.deterministic;
    }
    return found->second;
  }

  static bool merge(Graph& graph, Node& node, Node& original) {
    for (std::size_t i = 0; i < node.outputs().size(); ++i) {
      const Value* output = node.output(i);
      if (output == nullptr || output->uses().empty()) continue;
      const Value* other = original.output(i);
      if (other == nullptr || (output->is_graph_output() && other->is_graph_output())) return false;
      if (!graph.can_replace(*output, *other)) return false;
    }
    for (std::size_t i = 0; i < node.outputs().size(); ++i) {
      Value* output = node.output(i);
      if (output == nullptr || output->uses().empty()) continue;
      Value& other = *original.output(i);
      other.set_type(refined_type(output->is_graph_output() ? output->type() : other.type(),
                                  output->is_graph_output() ? other.type() : output->type()));
      graph.replace_all_uses(*output, other);
    }
    erase_with_dead_inputs(graph, node);
    return true;
  }

  std::map<std::string, bool> deterministic_;
};

}  // namespace

std::unique_ptr<Pass> make_merge_common_subexpressions(const PassOptions&) {
  return std::make_unique<MergeCommonSubexpressions>();
}

}  // namespace onnxfold
