// ONNX shape inference over the IR, without copying weights.
#include <fmt/format.h>
#include <onnx/shape_inference/implementation.h>

#include <algorithm>
#include <tuple>

#include "formats/onnx/proto.h"
#include "formats/onnx/runtime_types.h"
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

bool clash(const Type& declared, const Type& inferred) {
  if (declared.kind == Type::Kind::kNone || inferred.kind == Type::Kind::kNone) return false;
  if (declared.kind != inferred.kind) return true;
  if (!declared.is_tensor()) return false;
  const bool typed = declared.dtype != DType::kUndefined && inferred.dtype != DType::kUndefined;
  if (typed && declared.dtype != inferred.dtype) return true;
  if (!declared.shape || !inferred.shape) return false;
  if (declared.shape->size() != inferred.shape->size()) return true;
  for (std::size_t i = 0; i < declared.shape->size(); ++i) {
    const Dim &one = (*declared.shape)[i], &other = (*inferred.shape)[i];
    if (one.known() && other.known() && one.value != other.value) return true;
  }
  return false;
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

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// Annotates the proto as far as it goes. With `report_nodes` the error names what does not fit together; without it
// inference goes on past such nodes.
Status run_inference(onnx::ModelProto& proto, bool check_types, bool report_nodes) {
  try {
    onnx::shape_inference::InferShapes(proto, &onnx_proto::schemas_with_runtime(),
                                       onnx::ShapeInferenceOptions(check_types, report_nodes ? 1 : 0, true));
    return {};
  } catch (const std::exception& error) {
    return fail(Code::kCorrupt, "shape inference: " + one_line(error.what()));
  }
}

// A default that does not fit its input's declaration stops inference of the whole model; what is declared holds for
// every other value a caller may pass.
void drop_clashing_defaults(const Graph& graph, onnx::GraphProto& proto) {
  auto& defaults = *proto.mutable_initializer();
  const auto clashes = [&](const onnx::TensorProto& tensor) {
    const Value* input = graph.find(tensor.name());
    return input != nullptr && input->is_graph_input() && input->initializer() != nullptr &&
           clash(input->type(), Type::tensor(input->initializer()->dtype(), input->initializer()->dims()));
  };
  defaults.erase(std::remove_if(defaults.begin(), defaults.end(), clashes), defaults.end());
}

void drop_declarations(onnx::GraphProto& proto) {
  proto.clear_value_info();
  for (auto& output : *proto.mutable_output()) output.clear_type();
}

// Declared types of inner values that contradict what their producers make give way to it. Outputs are the model's
// public face: they stay as declared.
Status replace_clashing(const onnx::GraphProto& inferred, Graph& graph) {
  for (const auto& info : inferred.value_info()) {
    Value* value = graph.find(info.name());
    if (value == nullptr || value->producer() == nullptr || value->is_graph_output() || !info.has_type()) continue;
    OF_ASSIGN(Type type, onnx_proto::import_type(info.type()));
    if (clash(value->type(), type)) value->set_type(refine(Type::none(), type));
  }
  return {};
}

// Something declared is wrong. A first run that believes only inputs and weights finds it; a second one starts from
// what is left of the declarations.
Status infer_despite_clashes(Model& model) {
  onnx::ModelProto bare;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_small(kSmallTensor), nullptr, bare));
  drop_clashing_defaults(model.graph(), *bare.mutable_graph());
  drop_declarations(*bare.mutable_graph());
  std::ignore = run_inference(bare, false, false);
  OF_TRY(replace_clashing(bare.graph(), model.graph()));
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_small(kSmallTensor), nullptr, proto));
  drop_clashing_defaults(model.graph(), *proto.mutable_graph());
  std::ignore = run_inference(proto, false, false);
  return take_types(proto.graph(), model.graph());
}

}  // namespace

Status infer_shapes(Model& model, bool strict) {
  onnx::ModelProto proto;
  OF_TRY(onnx_proto::export_model(model, onnx_proto::export_small(kSmallTensor), nullptr, proto));
  const Status status = run_inference(proto, strict, true);
  if (!status) return strict ? status : infer_despite_clashes(model);
  return take_types(proto.graph(), model.graph());
}

}  // namespace onnxfold
