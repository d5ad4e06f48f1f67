#include "tests/support/canonical_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>

namespace onnxfold::test {
namespace {

std::string type_text(const Type& type) {
  if (!type.is_tensor()) return to_string(type);
  if (!type.shape) return std::string(name(type.dtype));
  std::string dims;
  for (const Dim& dim : *type.shape) {
    dims += (dims.empty() ? "" : ",") + (dim.known() ? std::to_string(*dim.value) : "?");
  }
  return fmt::format("{}[{}]", name(type.dtype), dims);
}

std::string tensor_text(const Tensor& tensor) {
  const std::string head = fmt::format("{}[{}]", name(tensor.dtype()), fmt::join(tensor.dims(), ","));
  if (tensor.dtype() == DType::kString) return fmt::format("{}{{{}}}", head, fmt::join(tensor.string_data(), "|"));
  if (const auto numbers = to_doubles(tensor); numbers && numbers->size() <= 64) {
    std::string text;
    for (const double number : *numbers) text += (text.empty() ? "" : ",") + fmt::format("{:.7g}", number + 0.0);
    return fmt::format("{}{{{}}}", head, text);
  }
  return fmt::format("{}{{#{}}}", head, tensor.content_hash().value_or("unreadable"));
}

class Printer {
 public:
  std::string graph(const Graph& graph, const std::string& indent) {
    std::string text;
    for (const Value* input : graph.inputs()) {
      // Inputs of the main graph are public; those of a subgraph are positional.
      names_[input] = graph.parent() == nullptr ? "in:" + input->name() : fmt::format("%{}", next_++);
      text += fmt::format("{}input {} {}", indent, names_[input], type_text(input->type()));
      if (input->initializer() != nullptr) text += " = " + tensor_text(*input->initializer());
      text += "\n";
    }
    for (const Value* output : graph.outputs()) visit(output, graph, indent, text);
    for (const Node* node : graph.nodes()) visit(*node, graph, indent, text, " (dead)");
    for (const Value* output : graph.outputs()) {
      const std::string public_name = graph.parent() == nullptr ? output->name() : "";
      text += fmt::format("{}output {} {} = {}\n", indent, public_name, type_text(output->type()), reference(output));
    }
    return text;
  }

 private:
  void visit(const Value* value, const Graph& graph, const std::string& indent, std::string& text) {
    if (value == nullptr || value->graph() != &graph || value->producer() == nullptr) return;
    visit(*value->producer(), graph, indent, text, "");
  }

  void visit_captures(const Graph& inner, const Graph& graph, const std::string& indent, std::string& text) {
    for (const Node* node : inner.nodes()) {
      for (const Value* input : node->inputs()) visit(input, graph, indent, text);
      for (const Graph* nested : node->subgraphs()) visit_captures(*nested, graph, indent, text);
    }
    for (const Value* output : inner.outputs()) visit(output, graph, indent, text);
  }

  void visit(const Node& node, const Graph& graph, const std::string& indent, std::string& text, const char* suffix) {
    if (!visited_.insert(&node).second) return;
    for (const Value* input : node.inputs()) visit(input, graph, indent, text);
    for (const Graph* inner : node.subgraphs()) visit_captures(*inner, graph, indent, text);
    std::string results;
    for (const Value* output : node.outputs()) {
      results += results.empty() ? "" : ", ";
      if (output == nullptr) {
        results += "-";
        continue;
      }
      names_[output] = fmt::format("%{}", next_++);
      results += fmt::format("{}:{}", names_[output], type_text(output->type()));
    }
    std::string arguments;
    for (const Value* input : node.inputs()) arguments += (arguments.empty() ? "" : ", ") + reference(input);
    const std::string domain = node.domain().empty() ? "" : node.domain() + "::";
    text += fmt::format("{}{} = {}{}{}({}){}\n", indent, results, domain, node.op_type(), attributes(node, indent),
                        arguments, suffix);
  }

  std::string reference(const Value* value) {
    if (value == nullptr) return "-";
    if (const auto found = names_.find(value); found != names_.end()) return found->second;
    if (value->initializer() != nullptr) return tensor_text(*value->initializer());
    return "?" + value->name();
  }

  std::string attributes(const Node& node, const std::string& indent) {
    std::vector<std::string> parts;
    for (const Attribute& attribute : node.attributes()) {
      parts.push_back(attribute.name + "=" +
                      std::visit([&](const auto& v) { return text_of(v, indent); }, attribute.value));
    }
    std::sort(parts.begin(), parts.end());
    return parts.empty() ? "" : fmt::format("<{}>", fmt::join(parts, ", "));
  }

  template <typename T>
  std::string text_of(const T& value, const std::string& indent) {
    if constexpr (std::is_same_v<T, Tensor>) {
      return tensor_text(value);
    } else if constexpr (std::is_same_v<T, std::unique_ptr<Graph>>) {
      return fmt::format("{{\n{}{}}}", graph(*value, indent + "  "), indent);
    } else if constexpr (std::is_same_v<T, Type>) {
      return type_text(value);
    } else if constexpr (std::is_same_v<T, SparseTensor>) {
      return tensor_text(value.values) + tensor_text(value.indices);
    } else if constexpr (std::is_same_v<T, AttributeReference>) {
      return "@" + value.name;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return '"' + value + '"';
    } else if constexpr (std::is_arithmetic_v<T>) {
      return fmt::format("{}", value);
    } else {
      std::string text;
      for (const auto& item : value) text += (text.empty() ? "" : ",") + text_of(item, indent);
      return "[" + text + "]";
    }
  }

  std::unordered_map<const Value*, std::string> names_;
  std::unordered_set<const Node*> visited_;
  int next_ = 0;
};

}  // namespace

std::string canonical_text(const Model& model) {
  std::string text;
  for (const auto& [domain, version] : model.opset_imports) text += fmt::format("opset '{}' {}\n", domain, version);
  text += Printer().graph(model.graph(), "");
  for (const auto& function : model.functions) {
    text += fmt::format("function {}::{}\n", function->domain, function->name) + Printer().graph(*function->body, "  ");
  }
  return text;
}

}  // namespace onnxfold::test
