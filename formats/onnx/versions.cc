// The IR version and the opset imports that the content of a model needs.
#include <algorithm>
#include <functional>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {
namespace {

void visit_graphs(const Graph& graph, const std::function<void(const Graph&)>& visit) {
  visit(graph);
  for (const Node* node : graph.nodes()) {
    for (const Graph* inner : node->subgraphs()) visit_graphs(*inner, visit);
  }
}

// First IR version that has the element type.
std::int64_t ir_version_of(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return 4;
    case DType::kFloat8E4M3FN:
    case DType::kFloat8E4M3FNUZ:
    case DType::kFloat8E5M2:
    case DType::kFloat8E5M2FNUZ:
      return 9;
    case DType::kUint4:
    case DType::kInt4:
      return 10;
    case DType::kFloat4E2M1:
      return 11;
    case DType::kFloat8E8M0:
      return 12;
    case DType::kUint2:
    case DType::kInt2:
      return 13;
    default:
      return 3;
  }
}

std::int64_t ir_version_of(const Graph& graph) {
  std::int64_t needed = 3;
  const auto raise = [&](std::int64_t version) { needed = std::max(needed, version); };
  if (!graph.metadata.empty()) raise(10);
  for (const Value* value : graph.values()) {
    raise(ir_version_of(value->dtype()));
    if (!value->metadata.empty()) raise(10);
    if (value->sparse_initializer() != nullptr) raise(5);
    if (const Tensor* tensor = value->initializer()) {
      raise(ir_version_of(tensor->dtype()));
      if (!value->is_graph_input()) raise(4);
    }
  }
  for (const Node* node : graph.nodes()) {
    if (!node->metadata.empty() || !node->overload.empty()) raise(10);
    for (const Attribute& attribute : node->attributes()) {
      if (const auto* tensor = std::get_if<Tensor>(&attribute.value)) raise(ir_version_of(tensor->dtype()));
    }
  }
  return needed;
}

}  // namespace

std::int64_t needed_ir_version(const Model& model, bool hoisting) {
  std::int64_t needed = hoisting ? 4 : 0;
  const auto raise = [&](const Graph& graph) { needed = std::max(needed, ir_version_of(graph)); };
  visit_graphs(model.graph(), raise);
  for (const auto& function : model.functions) visit_graphs(*function->body, raise);
  // What version 3 covers was there before it, only without opset imports.
  const bool plain = needed <= 3 && model.opset_imports == OpsetImports{{"", 1}};
  if (plain && model.ir_version > 0) needed = 0;
  if (!model.functions.empty()) needed = std::max<std::int64_t>(needed, 8);
  for (const auto& function : model.functions) {
    if (!function->defaults.empty()) needed = std::max<std::int64_t>(needed, 9);
    if (!function->overload.empty() || !function->metadata.empty()) needed = std::max<std::int64_t>(needed, 10);
  }
  return std::max(needed, model.ir_version);
}

OpsetImports needed_opsets(const Graph& graph, const OpsetImports& declared) {
  OpsetImports needed = declared;
  visit_graphs(graph, [&](const Graph& each) {
    for (const Node* node : each.nodes()) {
      if (!node->domain().empty()) needed.try_emplace(node->domain(), 1);
    }
  });
  return needed;
}

}  // namespace onnxfold::onnx_proto
