#include "ir/dump.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace onnxfold {
namespace {

class Dumper {
 public:
  explicit Dumper(TensorText tensors) : tensors_(tensors) {}

  std::string take() { return std::move(text_); }

  void model(const Model& model) {
    line(0, fmt::format("model ir {} producer \"{}\" \"{}\" domain \"{}\" version {}", model.ir_version,
                        model.producer_name, model.producer_version, model.domain, model.model_version));
    for (const auto& [domain, version] : model.opset_imports) line(0, fmt::format("opset \"{}\" {}", domain, version));
    metadata(0, model.metadata);
    for (const auto& function : model.functions) function_text(*function);
    graph(model.graph(), 0);
  }

 private:
  void line(int depth, const std::string& content) {
    text_.append(static_cast<std::size_t>(depth) * 2, ' ');
    text_ += content;
    text_ += '\n';
  }

  void metadata(int depth, const Metadata& entries) {
    for (const auto& [key, value] : entries) line(depth, fmt::format("meta \"{}\" = \"{}\"", key, value));
  }

  std::string tensor(const Tensor& tensor) const {
    const std::string type = to_string(Type::tensor(tensor.dtype(), tensor.dims()));
    if (tensors_ == TensorText::kShape) return type;
    if (tensors_ == TensorText::kIdentity) return fmt::format("{} @{}", type, tensor.identity());
    const auto hash = tensor.content_hash();
    return fmt::format("{} #{}", type, hash ? *hash : "unreadable: " + hash.error().message);
  }

  std::string sparse(const SparseTensor& held) const {
    return fmt::format("sparse[{}] values {} indices {}", fmt::join(held.dims, ","), tensor(held.values),
                       tensor(held.indices));
  }

  static std::string value_name(const Value* value) { return value == nullptr ? "_" : "%" + value->name(); }

  void graph(const Graph& graph, int depth) {
    line(depth, fmt::format("graph \"{}\"", graph.name));
    metadata(depth + 1, graph.metadata);
    for (const Value* input : graph.inputs()) {
      line(depth + 1, fmt::format("input {}: {}", value_name(input), to_string(input->type())));
    }
    for (const Value* value : graph.values()) {
      if (value->initializer() != nullptr) {
        line(depth + 1, fmt::format("init {} = {}", value_name(value), tensor(*value->initializer())));
      }
      if (value->sparse_initializer() != nullptr) {
        line(depth + 1, fmt::format("init {} = {}", value_name(value), sparse(*value->sparse_initializer())));
      }
      for (const auto& [key, text] : value->quantization) {
        line(depth + 1, fmt::format("quantization {} {} = {}", value_name(value), key, text));
      }
    }
    for (const Node* node : graph.nodes()) node_text(*node, depth + 1);
    for (const Value* output : graph.outputs()) {
      line(depth + 1, fmt::format("output {}: {}", value_name(output), to_string(output->type())));
    }
  }

  void node_text(const Node& node, int depth) {
    std::string text;
    for (const Value* output : node.outputs()) {
      if (!text.empty()) text += ", ";
      text += value_name(output);
      if (output != nullptr && output->type().kind != Type::Kind::kNone) text += ": " + to_string(output->type());
    }
    text += fmt::format(" = {}{}{}(", node.domain(), node.domain().empty() ? "" : ".", node.op_type());
    for (std::size_t i = 0; i < node.inputs().size(); ++i) {
      text += (i > 0 ? ", " : "") + value_name(node.inputs()[i]);
    }
    text += ")";
    if (!node.name.empty()) text += fmt::format(" \"{}\"", node.name);
    if (!node.overload.empty()) text += fmt::format(" overload \"{}\"", node.overload);
    line(depth, text);
    metadata(depth + 1, node.metadata);
    for (const Attribute& attribute : node.attributes()) attribute_text(attribute, depth + 1);
  }

  void attribute_text(const Attribute& attribute, int depth) {
    if (const auto* graph_value = std::get_if<std::unique_ptr<Graph>>(&attribute.value)) {
      line(depth, attribute.name + " =");
      graph(**graph_value, depth + 1);
      return;
    }
    if (const auto* graphs = std::get_if<std::vector<std::unique_ptr<Graph>>>(&attribute.value)) {
      line(depth, attribute.name + " = graphs");
      for (const auto& each : *graphs) graph(*each, depth + 1);
      return;
    }
    line(depth,
         attribute.name + " = " + std::visit([this](const auto& held) { return this->plain(held); }, attribute.value));
  }

  static std::string plain(float value) { return fmt::format("{:.9g}f", value); }
  static std::string plain(std::int64_t value) { return fmt::format("{}", value); }
  static std::string plain(const std::string& value) { return fmt::format("\"{}\"", value); }
  std::string plain(const Tensor& value) const { return tensor(value); }
  std::string plain(const SparseTensor& value) const { return sparse(value); }
  static std::string plain(const Type& value) { return to_string(value); }
  static std::string plain(const AttributeReference& value) { return fmt::format("@{}:{}", value.name, value.type); }
  static std::string plain(const std::unique_ptr<Graph>&) { return {}; }
  template <typename T>
  std::string plain(const std::vector<T>& values) const {
    std::string text = "[";
    for (const T& value : values) text += (text.size() > 1 ? ", " : "") + plain(value);
    return text + "]";
  }

  void function_text(const Function& function) {
    line(0, fmt::format("function \"{}\".\"{}\" overload \"{}\" attributes [{}]", function.domain, function.name,
                        function.overload, fmt::join(function.attributes, ",")));
    for (const auto& [domain, version] : function.opset_imports)
      line(1, fmt::format("opset \"{}\" {}", domain, version));
    for (const Attribute& attribute : function.defaults) attribute_text(attribute, 1);
    graph(*function.body, 1);
  }

  TensorText tensors_;
  std::string text_;
};

}  // namespace

std::string dump(const Model& model, TensorText tensors) {
  Dumper dumper(tensors);
  dumper.model(model);
  return dumper.take();
}

std::uint64_t fingerprint(const Model& model) {
  const std::string text = dump(model, TensorText::kIdentity);
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace onnxfold
