// ONNX shape inference over the IR, without copying weights.
#include <fmt/format.h>
#include <onnx/shape_inference/implementation.h>

#include "formats/onnx/proto.h"
#include "formats/onnx/schema.h"

namespace onnxfold {
namespace {

// Data propagation computes shapes from small integer tensors; nothing larger is ever a shape.
constexpr std::int64_t kSmallTensor = 1024;

Dim refine(const Dim& known, const Dim& inferred) {
  if (known.known() || !inferred.value) {
    if (known.value || !known.symbol.empty()) return known;
    // Names that inference makes up mean nothing to a user and differ from run to run.
    return inferred.symbol.starts_with("unk__") ? known : inferred;
  }
  Dim refined = inferred;
  refined.denotation = known.denotation;
  if (known.value && !known.known()) return known;  // a declared 0 or -1 is carried as written
  return refined;
}

Type refine(const Type& known, const Type& inferred) {
  if (known.kind == Type::Kind::kNone) {
    Type cleaned = inferred;
    if (cleaned.shape) {
      for (Dim& dim : *cleaned.shape) dim = refine(Dim(), dim);
    }
    return cleaned;
  }
  if (known.kind != inferred.kind) return known;
  Type refined = known;
  if (refined.dtype == DType::kUndefined) refined.dtype = inferred.dtype;
  if (!inferred.shape) return refined;
  if (!refined.shape) {
    refined.shape.emplace();
    for (const Dim& dim : *inferred.shape) refined.shape->push_back(refine(Dim(), dim));
  } else if (refined.shape->size() == inferred.shape->size()) {
    for (std::size_t i = 0; i < refined.shape->size(); ++i) {
      (*refined.shape)[i] = refine((*refined.shape)[i], (*inferred.shape)[i]);
    }
  }
  return refined;
}

Status take_types(const onnx::GraphProto& proto, Graph& graph);

Status take(const onnx::ValueInfoProto& info, Graph& graph) {
  Value* value = graph.find(info.name());
  if (value == nullptr || !info.has_type() || value->is_graph_input() || value->producer() == nullptr) return {};
  OF_ASSIGN(const Type inferred, onnx_proto::import_type(info.type()));
  Type refined = refine(value->type(), inferred);
  if (!(refined == value->type())) value->set_type(std::move(refined));
  return {};
}

Status take_subgraphs(const onnx::NodeProto& proto, Node& node) {
  for (const auto& attribute : proto.attribute()) {
    if (attribute.has_g() && node.attr_graph(attribute.name()) != nullptr) {
      OF_TRY(take_types(attribute.g(), *node.attr_graph(attribute.name())));
    }
  }
  return {};
}

Status take_types(const onnx::GraphProto& proto, Graph& graph) {
  for (const auto& info : proto.value_info()) OF_TRY(take(info, graph));
  for (const auto& info : proto.output()) OF_TRY(take(info, graph));
  // Export keeps the order of nodes, so the two lists run in step.
  const std::vector<Node*> nodes = graph.nodes();
  for (std::size_t i = 0; i < nodes.size(); ++i) OF_TRY(take_subgraphs(proto.node(static_cast<int>(i)), *nodes[i]));
  return {};
}

}  // namespace

Status infer_shapes(Model& model, bool strict) {
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_small(kSmallTensor), nullptr, proto));
  try {
    onnx::shape_inference::InferShapes(proto, onnx::OpSchemaRegistry::Instance(),
                                       onnx::ShapeInferenceOptions(strict, strict ? 1 : 0, true));
  } catch (const std::exception& error) {
    if (!strict) return {};  // what could be inferred before the clash is not worth more than what is declared
    std::string text = error.what();
    for (char& c : text) c = c == '\n' ? ' ' : c;
    return fail(Code::kCorrupt, fmt::format("shape inference: {}", text));
  }
  return take_types(proto.graph(), model.graph());
}

}  // namespace onnxfold
