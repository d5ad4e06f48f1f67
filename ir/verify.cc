#include "ir/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace onnxfold {
namespace {

// Everything one graph (with what encloses it) must satisfy, derived from the node list alone.
class Verifier {
 public:
  Status check(const Graph& graph) {
    OF_TRY(check_values(graph));
    for (const Value* input : graph.inputs()) {
      if (!input->is_graph_input()) return broken("input '{}' is not marked as one", input->name());
      made_.insert(input);
    }
    for (const Value* value : graph.values()) {
      if (value->initializer() != nullptr || value->sparse_initializer() != nullptr) made_.insert(value);
    }
    for (const Node* node : graph.nodes()) OF_TRY(check_node(graph, *node));
    for (std::size_t i = 0; i < graph.outputs().size(); ++i) {
      const Value* output = graph.outputs()[i];
      if (!made_.contains(output)) return broken("graph output '{}' is not made in scope", output->name());
      expect(*output, Use{nullptr, static_cast<int>(i), const_cast<Graph*>(&graph)});
    }
    return {};
  }

  // After all graphs: the use lists that the mutators kept equal the ones just derived.
  Status check_uses(const Graph& graph) {
    for (const Value* value : graph.values()) {
      const auto& derived = uses_[value];
      const auto& kept = value->uses();
      if (derived.size() != kept.size() || !std::is_permutation(derived.begin(), derived.end(), kept.begin())) {
        return broken("value '{}' has {} uses but its list says {}", value->name(), derived.size(), kept.size());
      }
    }
    for (const Node* node : graph.nodes()) {
      for (const Graph* inner : node->subgraphs()) OF_TRY(check_uses(*inner));
    }
    return {};
  }

 private:
  template <typename... Args>
  static tl::unexpected<Error> broken(fmt::format_string<Args...> format, Args&&... args) {
    return fail(Code::kInternal, "broken graph: " + fmt::format(format, std::forward<Args>(args)...));
  }

  static Status check_values(const Graph& graph) {
    std::unordered_set<std::string_view> names;
    for (const Value* value : graph.values()) {
      if (value->erased() || value->graph() != &graph) return broken("value '{}' belongs elsewhere", value->name());
      if (value->name().empty()) return broken("a value of graph '{}' has no name", graph.name);
      if (!names.insert(value->name()).second) return broken("two values are called '{}'", value->name());
      if (graph.find(value->name()) != value) return broken("value '{}' is not found by its name", value->name());
      if (const Tensor* tensor = value->initializer()) OF_TRY(check_tensor(*value, *tensor));
    }
    return {};
  }

  static Status check_tensor(const Value& value, const Tensor& tensor) {
    if (value.producer() != nullptr) return broken("initializer '{}' also has a producer", value.name());
    for (const std::int64_t dim : tensor.dims()) {
      if (dim < 0) return broken("initializer '{}' has a negative dimension", value.name());
    }
    if (tensor.dtype() == DType::kString) {
      if (static_cast<std::int64_t>(tensor.string_data().size()) != tensor.size()) {
        return broken("initializer '{}' holds {} strings, not {}", value.name(), tensor.string_data().size(),
                      tensor.size());
      }
    } else if (packed_bytes(tensor.dtype(), tensor.size()) != tensor.nbytes()) {
      return broken("initializer '{}' has {} bytes", value.name(), tensor.nbytes());
    }
    const bool typed = value.type().is_tensor() && value.type().dtype != DType::kUndefined;
    if (typed && !value.is_graph_input() && value.type().dtype != tensor.dtype()) {
      return broken("initializer '{}' is declared {} but holds {}", value.name(), name(value.type().dtype),
                    name(tensor.dtype()));
    }
    const auto declared = value.static_dims();
    if (declared && !value.is_graph_input() && *declared != tensor.dims()) {
      return broken("initializer '{}' is declared {} but has another shape", value.name(), to_string(value.type()));
    }
    return {};
  }

  Status check_node(const Graph& graph, const Node& node) {
    if (node.erased() || node.graph() != &graph) return broken("node '{}' belongs elsewhere", node.label());
    for (std::size_t i = 0; i < node.inputs().size(); ++i) {
      const Value* input = node.inputs()[i];
      if (input == nullptr) continue;
      if (!made_.contains(input)) {
        return broken("node '{}' reads '{}' before it is made or out of its scope", node.label(), input->name());
      }
      expect(*input, Use{const_cast<Node*>(&node), static_cast<int>(i), nullptr});
    }
    for (const Graph* inner : node.subgraphs()) {
      if (inner->parent() != &graph) return broken("a subgraph of node '{}' has another parent", node.label());
      OF_TRY(check(*inner));
      for (const Value* value : inner->values()) made_.erase(value);  // out of scope again
    }
    for (std::size_t i = 0; i < node.outputs().size(); ++i) {
      const Value* output = node.outputs()[i];
      if (output == nullptr) continue;
      if (output->producer() != &node || output->output_index() != static_cast<int>(i) || output->graph() != &graph) {
        return broken("output '{}' of node '{}' has another producer", output->name(), node.label());
      }
      made_.insert(output);
    }
    return {};
  }

  void expect(const Value& value, Use use) { uses_[&value].push_back(use); }

  std::unordered_set<const Value*> made_;
  std::unordered_map<const Value*, std::vector<Use>> uses_;
};

Status verify_graph(const Graph& graph) {
  Verifier verifier;
  OF_TRY(verifier.check(graph));
  return verifier.check_uses(graph);
}

}  // namespace

Status verify(const Model& model) {
  OF_TRY(verify_graph(model.graph()));
  for (const auto& function : model.functions) {
    if (auto status = verify_graph(*function->body); !status) {
      return fail(status.error().in(fmt::format("function {}.{}", function->domain, function->name)));
    }
  }
  return {};
}

}  // namespace onnxfold
