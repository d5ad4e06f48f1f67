// ModelProto -> Model. Carries or refuses; never drops.
#include <fmt/format.h>

#include <unordered_map>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {
namespace {

constexpr int kMaxDepth = 64;  // of nested subgraphs

template <typename Entries>
Metadata import_metadata(const Entries& entries) {
  Metadata metadata;
  for (const auto& entry : entries) metadata.emplace_back(entry.key(), entry.value());
  return metadata;
}

std::string plain_domain(const std::string& domain) { return domain == "ai.onnx" ? "" : domain; }

class Importer {
 public:
  explicit Importer(const ExternalOpener& external) : external_(external) {}

  Status graph(onnx::GraphProto& proto, Graph& graph, int depth);
  Status function(onnx::FunctionProto& proto, Function& function);
  Result<Attribute> attribute(onnx::AttributeProto& proto, Graph* graph, int depth);

 private:
  Status inputs_and_initializers(onnx::GraphProto& proto, Graph& graph);
  Status make_outputs(const google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, Graph& graph);
  Status node(onnx::NodeProto& proto, Graph& graph, int depth);
  Status outputs(onnx::GraphProto& proto, Graph& graph);
  Status annotations(const onnx::GraphProto& proto, Graph& graph);
  Result<Type> declared(const std::string& name) const {
    const auto found = types_.find(name);
    if (found == types_.end()) return Type::none();
    return import_type(found->second->type());
  }

  const ExternalOpener& external_;
  std::unordered_map<std::string, const onnx::ValueInfoProto*> types_;  // of the graph being read
};

// Fields of a newer ONNX that nothing here could carry.
template <typename Message>
Status refuse_unknown(const Message& proto, std::string_view what) {
  if (proto.unknown_fields().empty()) return {};
  return fail(Code::kUnsupported, fmt::format("{}: fields newer than ONNX 1.23", what));
}

// Before IR version 2 the type was told by the field that is set.
onnx::AttributeProto::AttributeType type_of(const onnx::AttributeProto& proto) {
  using A = onnx::AttributeProto;
  if (proto.type() != A::UNDEFINED) return proto.type();
  if (proto.has_f()) return A::FLOAT;
  if (proto.has_i()) return A::INT;
  if (proto.has_s()) return A::STRING;
  if (proto.has_t()) return A::TENSOR;
  if (proto.has_g()) return A::GRAPH;
  if (proto.floats_size() > 0) return A::FLOATS;
  if (proto.ints_size() > 0) return A::INTS;
  if (proto.strings_size() > 0) return A::STRINGS;
  if (proto.tensors_size() > 0) return A::TENSORS;
  return proto.graphs_size() > 0 ? A::GRAPHS : A::UNDEFINED;
}

void describe(Value& value, const onnx::ValueInfoProto& info) {
  value.doc_string = info.doc_string();
  value.metadata = import_metadata(info.metadata_props());
}

Result<SparseTensor> import_sparse(onnx::SparseTensorProto& proto, const ExternalOpener& external) {
  SparseTensor sparse;
  sparse.values_name = proto.values().name();
  sparse.indices_name = proto.indices().name();
  sparse.dims.assign(proto.dims().begin(), proto.dims().end());
  OF_ASSIGN(sparse.values, import_tensor(*proto.mutable_values(), external));
  OF_ASSIGN(sparse.indices, import_tensor(*proto.mutable_indices(), external));
  return sparse;
}

Status Importer::inputs_and_initializers(onnx::GraphProto& proto, Graph& graph) {
  for (const auto& info : proto.input()) {
    if (info.name().empty()) return fail(Code::kCorrupt, fmt::format("an input of graph '{}' has no name", graph.name));
    OF_ASSIGN(Type type, import_type(info.type()));
    OF_ASSIGN(Value * value, graph.add_input_exact(info.name(), std::move(type)));
    describe(*value, info);
  }
  for (auto& initializer : *proto.mutable_initializer()) {
    if (initializer.name().empty()) {
      return fail(Code::kCorrupt, fmt::format("an initializer of graph '{}' has no name", graph.name));
    }
    OF_ASSIGN(Tensor tensor, import_tensor(initializer, external_));
    Value* value = graph.find(initializer.name());
    if (value != nullptr && value->is_graph_input() && value->initializer() == nullptr) {
      graph.set_input_default(*value, std::move(tensor));
    } else {
      OF_ASSIGN(value, graph.add_initializer_exact(initializer.name(), std::move(tensor)));
    }
    if (!initializer.doc_string().empty()) value->doc_string = initializer.doc_string();
    if (initializer.metadata_props_size() > 0) value->metadata = import_metadata(initializer.metadata_props());
  }
  for (auto& sparse : *proto.mutable_sparse_initializer()) {
    const std::string name = sparse.values().name();
    if (name.empty()) {
      return fail(Code::kCorrupt, fmt::format("a sparse initializer of graph '{}' has no name", graph.name));
    }
    OF_ASSIGN(SparseTensor tensor, import_sparse(sparse, external_));
    OF_TRY(graph.add_sparse_initializer(name, std::move(tensor)));
  }
  return {};
}

Status Importer::make_outputs(const google::protobuf::RepeatedPtrField<onnx::NodeProto>& nodes, Graph& graph) {
  for (const auto& node : nodes) {
    for (const std::string& name : node.output()) {
      if (name.empty()) continue;
      OF_ASSIGN(Type type, declared(name));
      OF_ASSIGN(Value * value, graph.add_value_exact(name, std::move(type)));
      const auto info = types_.find(name);
      if (info != types_.end()) describe(*value, *info->second);
    }
  }
  return {};
}

// What is left of a node when everything the IR models is taken out: unknown or multi-device fields.
std::string leftovers(onnx::NodeProto& proto) {
  proto.clear_input();
  proto.clear_output();
  proto.clear_attribute();
  proto.clear_name();
  proto.clear_op_type();
  proto.clear_domain();
  proto.clear_overload();
  proto.clear_doc_string();
  proto.clear_metadata_props();
  return proto.SerializeAsString();
}

Status Importer::node(onnx::NodeProto& proto, Graph& graph, int depth) {
  NodeSpec spec{proto.op_type(), {}, {}, {}, proto.domain(), proto.name()};
  const auto context = [&](const Error& error) {
    return fail(error.in(fmt::format("node '{}' ({})", proto.name(), proto.op_type())));
  };
  if (proto.op_type().empty()) return fail(Code::kCorrupt, fmt::format("node '{}' has no operator", proto.name()));
  for (const std::string& name : proto.input()) {
    Value* value = name.empty() ? nullptr : graph.find_in_scope(name);
    if (value == nullptr && !name.empty()) {
      return context(Error{Code::kCorrupt, fmt::format("reads '{}', which nothing makes", name)});
    }
    spec.inputs.push_back(value);
  }
  for (auto& entry : *proto.mutable_attribute()) {
    auto made = attribute(entry, &graph, depth);
    if (!made) return context(made.error());
    spec.attributes.push_back(std::move(*made));
  }
  std::vector<Value*> made;
  for (const std::string& name : proto.output()) made.push_back(name.empty() ? nullptr : graph.find(name));
  OF_ASSIGN(Node * node, graph.insert_exact(std::move(spec), std::move(made)));
  node->overload = proto.overload();
  node->doc_string = proto.doc_string();
  node->metadata = import_metadata(proto.metadata_props());
  node->opaque = leftovers(proto);
  return {};
}

Status Importer::outputs(onnx::GraphProto& proto, Graph& graph) {
  for (const auto& info : proto.output()) {
    Value* value = graph.find_in_scope(info.name());
    if (value == nullptr) {
      return fail(Code::kCorrupt, fmt::format("graph output '{}' is made by nothing", info.name()));
    }
    graph.add_output(*value);
    if (value->graph() == &graph && value->producer() != nullptr) describe(*value, info);
  }
  return {};
}

Status Importer::annotations(const onnx::GraphProto& proto, Graph& graph) {
  for (const auto& annotation : proto.quantization_annotation()) {
    Value* value = graph.find(annotation.tensor_name());
    if (value == nullptr) {
      return fail(Code::kCorrupt,
                  fmt::format("quantization annotation of '{}', which does not exist", annotation.tensor_name()));
    }
    value->quantization = import_metadata(annotation.quant_parameter_tensor_names());
  }
  return {};
}

Status Importer::graph(onnx::GraphProto& proto, Graph& graph, int depth) {
  OF_TRY(refuse_unknown(proto, fmt::format("graph '{}'", proto.name())));
  if (depth > kMaxDepth) return fail(Code::kUnsupported, fmt::format("subgraphs are nested deeper than {}", kMaxDepth));
  auto outer = std::move(types_);
  types_.clear();
  for (const auto& info : proto.value_info()) types_[info.name()] = &info;
  for (const auto& info : proto.output()) types_[info.name()] = &info;
  graph.name = proto.name();
  graph.doc_string = proto.doc_string();
  graph.metadata = import_metadata(proto.metadata_props());
  OF_TRY(inputs_and_initializers(proto, graph));
  OF_TRY(make_outputs(proto.node(), graph));
  for (auto& entry : *proto.mutable_node()) OF_TRY(node(entry, graph, depth));
  OF_TRY(outputs(proto, graph));
  OF_TRY(annotations(proto, graph));
  types_ = std::move(outer);
  return graph.sort_topologically();
}

template <typename T, typename Field>
std::vector<T> to_vector(const Field& field) {
  return std::vector<T>(field.begin(), field.end());
}

Result<Attribute> Importer::attribute(onnx::AttributeProto& proto, Graph* graph, int depth) {
  OF_TRY(refuse_unknown(proto, fmt::format("attribute '{}'", proto.name())));
  AttributeValue value = std::int64_t{0};
  std::string tensor_name;
  if (!proto.ref_attr_name().empty()) {
    value = AttributeReference{proto.ref_attr_name(), static_cast<std::int32_t>(proto.type())};
  } else {
    const auto subgraph = [&](onnx::GraphProto& inner) -> Result<std::unique_ptr<Graph>> {
      auto made = std::make_unique<Graph>(graph);
      OF_TRY(this->graph(inner, *made, depth + 1));
      return made;
    };
    switch (type_of(proto)) {
      case onnx::AttributeProto::FLOAT:
        value = proto.f();
        break;
      case onnx::AttributeProto::INT:
        value = static_cast<std::int64_t>(proto.i());
        break;
      case onnx::AttributeProto::STRING:
        value = proto.s();
        break;
      case onnx::AttributeProto::TENSOR: {
        tensor_name = proto.t().name();
        OF_ASSIGN(value, import_tensor(*proto.mutable_t(), external_));
        break;
      }
      case onnx::AttributeProto::GRAPH: {
        OF_ASSIGN(value, subgraph(*proto.mutable_g()));
        break;
      }
      case onnx::AttributeProto::SPARSE_TENSOR: {
        OF_ASSIGN(value, import_sparse(*proto.mutable_sparse_tensor(), external_));
        break;
      }
      case onnx::AttributeProto::TYPE_PROTO: {
        OF_ASSIGN(value, import_type(proto.tp()));
        break;
      }
      case onnx::AttributeProto::FLOATS:
        value = to_vector<float>(proto.floats());
        break;
      case onnx::AttributeProto::INTS:
        value = to_vector<std::int64_t>(proto.ints());
        break;
      case onnx::AttributeProto::STRINGS:
        value = to_vector<std::string>(proto.strings());
        break;
      case onnx::AttributeProto::TENSORS: {
        std::vector<Tensor> tensors;
        for (auto& each : *proto.mutable_tensors()) {
          OF_ASSIGN(Tensor tensor, import_tensor(each, external_));
          tensors.push_back(std::move(tensor));
        }
        value = std::move(tensors);
        break;
      }
      case onnx::AttributeProto::GRAPHS: {
        std::vector<std::unique_ptr<Graph>> graphs;
        for (auto& each : *proto.mutable_graphs()) {
          OF_ASSIGN(auto made, subgraph(each));
          graphs.push_back(std::move(made));
        }
        value = std::move(graphs);
        break;
      }
      case onnx::AttributeProto::SPARSE_TENSORS: {
        std::vector<SparseTensor> tensors;
        for (auto& each : *proto.mutable_sparse_tensors()) {
          OF_ASSIGN(SparseTensor tensor, import_sparse(each, external_));
          tensors.push_back(std::move(tensor));
        }
        value = std::move(tensors);
        break;
      }
      case onnx::AttributeProto::TYPE_PROTOS: {
        std::vector<Type> types;
        for (const auto& each : proto.type_protos()) {
          OF_ASSIGN(Type type, import_type(each));
          types.push_back(std::move(type));
        }
        value = std::move(types);
        break;
      }
      default:
        return fail(Code::kUnsupported,
                    fmt::format("attribute '{}' has unknown type {}", proto.name(), static_cast<int>(proto.type())));
    }
  }
  Attribute made(proto.name(), std::move(value));
  made.doc_string = proto.doc_string();
  made.tensor_name = std::move(tensor_name);
  if (made.doc_string.empty()) made.doc_string = proto.t().doc_string();
  return made;
}

Status Importer::function(onnx::FunctionProto& proto, Function& function) {
  OF_TRY(refuse_unknown(proto, "it"));
  function.domain = plain_domain(proto.domain());
  function.name = proto.name();
  function.overload = proto.overload();
  function.doc_string = proto.doc_string();
  function.attributes = to_vector<std::string>(proto.attribute());
  function.metadata = import_metadata(proto.metadata_props());
  for (const auto& import : proto.opset_import())
    function.opset_imports[plain_domain(import.domain())] = import.version();
  function.body = std::make_unique<Graph>();
  function.adopt();
  for (auto& entry : *proto.mutable_attribute_proto()) {
    OF_ASSIGN(Attribute made, attribute(entry, function.body.get(), 0));
    function.defaults.push_back(std::move(made));
  }
  types_.clear();
  for (const auto& info : proto.value_info()) types_[info.name()] = &info;
  for (const std::string& name : proto.input()) {
    OF_ASSIGN(Type type, declared(name));
    OF_TRY(function.body->add_input_exact(name, std::move(type)));
  }
  OF_TRY(make_outputs(proto.node(), *function.body));
  for (auto& entry : *proto.mutable_node()) OF_TRY(node(entry, *function.body, 0));
  for (const std::string& name : proto.output()) {
    Value* value = function.body->find(name);
    if (value == nullptr) return fail(Code::kCorrupt, fmt::format("output '{}' is made by nothing", name));
    function.body->add_output(*value);
  }
  return function.body->sort_topologically();
}

}  // namespace

Result<std::unique_ptr<Function>> import_function(onnx::FunctionProto& proto) {
  auto function = std::make_unique<Function>();
  Importer importer(nullptr);
  OF_TRY(importer.function(proto, *function));
  return function;
}

Result<std::unique_ptr<Model>> import_model(onnx::ModelProto&& proto, const ExternalOpener& external) {
  if (!proto.has_graph()) return fail(Code::kCorrupt, "not an ONNX model: it has no graph");
  auto model = std::make_unique<Model>();
  model->ir_version = proto.ir_version();
  for (const auto& import : proto.opset_import())
    model->opset_imports[plain_domain(import.domain())] = import.version();
  if (model->opset_imports.empty()) {
    if (proto.ir_version() >= 3) return fail(Code::kCorrupt, "not an ONNX model: it imports no operator set");
    model->opset_imports[""] = 1;
  }
  model->producer_name = proto.producer_name();
  model->producer_version = proto.producer_version();
  model->domain = proto.domain();
  model->model_version = proto.model_version();
  model->doc_string = proto.doc_string();
  model->metadata = import_metadata(proto.metadata_props());
  Importer importer(external);
  for (auto& entry : *proto.mutable_functions()) {
    auto function = std::make_unique<Function>();
    if (auto status = importer.function(entry, *function); !status) {
      return fail(status.error().in(fmt::format("function {}.{}", entry.domain(), entry.name())));
    }
    model->functions.push_back(std::move(function));
  }
  OF_TRY(importer.graph(*proto.mutable_graph(), model->graph(), 0));
  proto.clear_graph();
  proto.clear_functions();
  proto.clear_ir_version();
  proto.clear_opset_import();
  proto.clear_producer_name();
  proto.clear_producer_version();
  proto.clear_domain();
  proto.clear_model_version();
  proto.clear_doc_string();
  proto.clear_metadata_props();
  model->opaque = proto.SerializeAsString();
  return model;
}

}  // namespace onnxfold::onnx_proto
