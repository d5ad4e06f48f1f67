// Schemas: what is known about an operator, and checks of nodes against it.
#include "formats/onnx/schema.h"

#include <fmt/format.h>
#include <onnx/defs/data_type_utils.h>
#include <onnx/defs/schema.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <set>
#include <vector>

#include "formats/onnx/proto.h"

namespace onnxfold {
namespace {

const onnx::OpSchema* find_schema(std::string_view domain, std::string_view op_type, std::int64_t opset) {
  return onnx::OpSchemaRegistry::Schema(std::string(op_type), static_cast<int>(opset), std::string(domain));
}

// ceil(D/S) <= block_size <= ceil(D/(S-1)) - 1, which the schema's shape inference leaves out.
Status check_blocks(const Node& node) {
  const std::int64_t block = node.attr_int("block_size", 0);
  if (block == 0) return {};
  if (block < 0) return fail(Code::kCorrupt, fmt::format("node '{}': block_size is negative", node.label()));
  const auto data = node.input(0) != nullptr ? node.input(0)->static_dims() : std::nullopt;
  const auto scale = node.input(1) != nullptr ? node.input(1)->static_dims() : std::nullopt;
  if (!data || !scale) return {};
  const auto rank = static_cast<std::int64_t>(data->size());
  std::int64_t axis = node.attr_int("axis", 1);
  if (axis < 0) axis += rank;
  bool fits = scale->size() == data->size() && axis >= 0 && axis < rank;
  for (std::int64_t i = 0; fits && i < rank; ++i) {
    const std::int64_t d = (*data)[static_cast<std::size_t>(i)];
    const std::int64_t s = (*scale)[static_cast<std::size_t>(i)];
    fits = i == axis ? s == (d + block - 1) / block : s == d;
  }
  if (fits) return {};
  return fail(Code::kCorrupt,
              fmt::format("node '{}': scale {} does not fit data {} with block_size {} on axis {}", node.label(),
                          to_string(node.input(1)->type()), to_string(node.input(0)->type()), block, axis));
}

// Interned names of tensor types as schemas list them ("tensor(float)").
onnx::DataType type_name(const Type& type) {
  static std::array<onnx::DataType, static_cast<std::size_t>(DType::kInt2) + 1> tensors{};
  static std::once_flag filled;
  std::call_once(filled, [] {
    for (std::size_t i = 1; i < tensors.size(); ++i) {
      onnx::TypeProto proto;
      proto.mutable_tensor_type()->set_elem_type(static_cast<std::int32_t>(i));
      tensors[i] = onnx::Utils::DataTypeUtils::ToType(proto);
    }
  });
  return type.is_tensor() ? tensors[static_cast<std::size_t>(type.dtype)] : nullptr;
}

// Inputs whose types are known are among those the schema lists, and inputs that share a type variable have one type.
Status check_input_types(const Node& node, const onnx::OpSchema& schema) {
  struct Bound {
    const std::string* variable;
    onnx::DataType type;
    std::size_t input;
  };
  std::vector<Bound> bound;
  const auto& formal = schema.inputs();
  for (std::size_t i = 0; i < node.inputs().size() && !formal.empty(); ++i) {
    const onnx::DataType type = node.input(i) != nullptr ? type_name(node.input(i)->type()) : nullptr;
    if (type == nullptr) continue;
    const auto& parameter = formal[std::min(i, formal.size() - 1)];
    if (!parameter.GetTypes().contains(type)) {
      return fail(Code::kCorrupt, fmt::format("node '{}': input {} ('{}') is {}, which {} does not take", node.label(),
                                              i, node.input(i)->name(), *type, node.op_type()));
    }
    if (!parameter.GetIsHomogeneous() || !schema.typeConstraintMap().contains(parameter.GetTypeStr())) continue;
    const auto same = std::find_if(bound.begin(), bound.end(),
                                   [&](const Bound& each) { return *each.variable == parameter.GetTypeStr(); });
    if (same == bound.end()) {
      bound.push_back({&parameter.GetTypeStr(), type, i});
    } else if (same->type != type) {
      return fail(Code::kCorrupt,
                  fmt::format("node '{}': {} takes one type for inputs {} and {}, but '{}' is {} and '{}' is {}",
                              node.label(), node.op_type(), same->input, i, node.input(same->input)->name(),
                              *same->type, node.input(i)->name(), *type));
    }
  }
  return {};
}

Status check_node(const Node& node, const OpsetImports& imports) {
  const auto import = imports.find(node.domain());
  if (import == imports.end()) {
    if (!node.domain().empty()) return {};
    return fail(Code::kCorrupt, fmt::format("node '{}': the model imports no default operator set", node.label()));
  }
  const onnx::OpSchema* schema = find_schema(node.domain(), node.op_type(), import->second);
  if (schema == nullptr) {
    const bool standard = node.domain().empty() || node.domain() == "ai.onnx.ml";
    if (!standard || node.op_type() == "SimplifiedLayerNormalization") return {};
    return fail(Code::kUnsupported, fmt::format("node '{}': operator {} does not exist in opset {}", node.label(),
                                                node.op_type(), import->second));
  }
  onnx::NodeProto proto;
  OF_TRY(onnx_proto::export_node(node, onnx_proto::export_small(0), proto));
  try {
    schema->Verify(proto);
  } catch (const std::exception& error) {
    std::string text = error.what();
    for (char& c : text) c = c == '\n' ? ' ' : c;
    return fail(Code::kCorrupt, fmt::format("node '{}': {}", node.label(), text));
  }
  OF_TRY(check_input_types(node, *schema));
  if (node.op_type() == "DequantizeLinear" || node.op_type() == "QuantizeLinear") return check_blocks(node);
  return {};
}

Status check_graph(const Graph& graph, const Model& model) {
  for (const Node* node : graph.nodes()) {
    bool local = false;
    for (const auto& function : model.functions) {
      local = local || (function->name == node->op_type() && function->domain == node->domain());
    }
    if (!local) OF_TRY(check_node(*node, graph.opset_imports()));
    for (const Graph* inner : node->subgraphs()) OF_TRY(check_graph(*inner, model));
  }
  return {};
}

}  // namespace

Status check_model(const Model& model) {
  OF_TRY(check_graph(model.graph(), model));
  for (const auto& function : model.functions) OF_TRY(check_graph(*function->body, model));
  return {};
}

OperatorInfo operator_info(std::string_view domain, std::string_view op_type, std::int64_t opset) {
  OperatorInfo info;
  const onnx::OpSchema* schema = find_schema(domain, op_type, opset);
  if (schema == nullptr) return info;
  info.known = true;
  info.deterministic = schema->GetNodeDeterminism() != onnx::OpSchema::NodeDeterminism::NonDeterministic;
  info.has_function_body = schema->HasFunction() || schema->HasContextDependentFunction();
  info.since_version = schema->since_version();
  return info;
}

namespace {

// The body as the standard gives it for the opset the node runs at; false when there is none.
bool build_body(const onnx::OpSchema& schema, const Node& node, std::int64_t opset, onnx::FunctionProto& body) {
  if (schema.HasContextDependentFunction()) {
    onnx::NodeProto proto;
    if (!onnx_proto::export_node(node, onnx_proto::export_inline, proto)) return false;
    std::vector<onnx::TypeProto> types;
    for (const Value* input : node.inputs()) {
      types.emplace_back();
      if (input != nullptr) onnx_proto::export_type(input->type(), types.back());
    }
    const onnx::FunctionBodyBuildContextImpl context(proto, types);
    if (schema.BuildContextDependentFunction(context, body, static_cast<int>(opset))) return true;
  }
  const onnx::FunctionProto* plain = schema.GetFunction(static_cast<int>(opset), true);
  if (plain == nullptr) plain = schema.GetFunction();
  if (plain == nullptr) return false;
  body = *plain;
  return true;
}

// The schema's default of an attribute holds in the body as well.
void add_defaults(const onnx::OpSchema& schema, onnx::FunctionProto& body) {
  for (const auto& [name, attribute] : schema.attributes()) {
    if (attribute.default_value.name().empty()) continue;
    const bool given =
        std::any_of(body.attribute_proto().begin(), body.attribute_proto().end(),
                    [&wanted = attribute.name](const onnx::AttributeProto& own) { return own.name() == wanted; });
    if (!given) *body.add_attribute_proto() = attribute.default_value;
  }
}

// A body leaves out optional outputs that the call omits: their places are kept by constants nobody reads.
void make_missing_outputs(onnx::FunctionProto& body) {
  std::set<std::string> made(body.input().begin(), body.input().end());
  for (const onnx::NodeProto& node : body.node()) made.insert(node.output().begin(), node.output().end());
  for (const std::string& output : body.output()) {
    if (made.contains(output)) continue;
    onnx::NodeProto* node = body.add_node();
    node->set_op_type("Constant");
    node->add_output(output);
    onnx::AttributeProto* value = node->add_attribute();
    value->set_name("value_float");
    value->set_type(onnx::AttributeProto::FLOAT);
    value->set_f(0);
  }
}

}  // namespace

Result<std::unique_ptr<Function>> function_body(const Node& node) {
  const std::int64_t opset = node.opset();
  const onnx::OpSchema* schema = find_schema(node.domain(), node.op_type(), opset);
  if (schema == nullptr) return nullptr;
  onnx::FunctionProto proto;
  try {
    if (!build_body(*schema, node, opset, proto)) return nullptr;
  } catch (const std::exception& error) {
    return fail(Code::kUnsupported, fmt::format("node '{}': {}", node.label(), error.what()));
  }
  add_defaults(*schema, proto);
  make_missing_outputs(proto);
  // What the body does not import it takes from the model.
  OF_ASSIGN(auto function, onnx_proto::import_function(proto));
  for (const auto& [domain, version] : node.graph()->opset_imports()) {
    function->opset_imports.try_emplace(domain, version);
  }
  return function;
}

}  // namespace onnxfold
