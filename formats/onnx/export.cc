// Model -> ModelProto.
#include <fmt/format.h>

#include <algorithm>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {
namespace {

template <typename Entries>
void export_metadata(const Metadata& metadata, Entries* entries) {
  for (const auto& [key, value] : metadata) {
    auto* entry = entries->Add();
    entry->set_key(key);
    entry->set_value(value);
  }
}

void export_shape(const std::vector<Dim>& shape, onnx::TensorShapeProto& proto) {
  for (const Dim& dim : shape) {
    auto* made = proto.add_dim();
    if (dim.value) made->set_dim_value(*dim.value);
    if (!dim.symbol.empty() && !dim.value) made->set_dim_param(dim.symbol);
    if (!dim.denotation.empty()) made->set_denotation(dim.denotation);
  }
}

void export_info(const Value& value, onnx::ValueInfoProto& proto) {
  proto.set_name(value.name());
  if (value.type().kind != Type::Kind::kNone) export_type(value.type(), *proto.mutable_type());
  if (!value.doc_string.empty()) proto.set_doc_string(value.doc_string);
  export_metadata(value.metadata, proto.mutable_metadata_props());
}

class Exporter {
 public:
  Exporter(const TensorExporter& data, const HoistConstant& hoist, bool drop_constant_inputs = false,
           const ValueNames* described = nullptr)
      : data_(data), hoist_(hoist), drop_constant_inputs_(drop_constant_inputs), described_(described) {}

  Status graph(const Graph& graph, onnx::GraphProto& proto);
  Status node(const Node& node, onnx::NodeProto& proto);
  Status attribute(const Attribute& attribute, onnx::AttributeProto& proto);
  bool worth_describing(const Value& value) const;

 private:
  Status initializer(const Value& value, const Tensor& tensor, onnx::GraphProto& proto);
  Status sparse(const SparseTensor& tensor, onnx::SparseTensorProto& proto);
  bool hoisted(const Node& node) const {
    return hoist_ && node.is("Constant") && node.output() != nullptr && node.output()->constant() != nullptr &&
           hoist_(*node.output()->constant());
  }

  const TensorExporter& data_;
  const HoistConstant& hoist_;
  // Before IR version 4 inputs listed their initializers, which stayed constants; from 4 on a listed one can be
  // overridden. When the version rises past it they leave the inputs.
  bool drop_constant_inputs_;
  const ValueNames* described_;
};

Status Exporter::sparse(const SparseTensor& tensor, onnx::SparseTensorProto& proto) {
  for (const std::int64_t dim : tensor.dims) proto.add_dims(dim);
  OF_TRY(export_tensor(tensor.values, tensor.values_name, data_, *proto.mutable_values()));
  return export_tensor(tensor.indices, tensor.indices_name, data_, *proto.mutable_indices());
}

Status Exporter::initializer(const Value& value, const Tensor& tensor, onnx::GraphProto& proto) {
  auto* made = proto.add_initializer();
  OF_TRY(export_tensor(tensor, value.name(), data_, *made));
  if (!value.is_graph_input()) {
    if (!value.doc_string.empty()) made->set_doc_string(value.doc_string);
    export_metadata(value.metadata, made->mutable_metadata_props());
  }
  return {};
}

// A Constant node says its output's type itself.
bool Exporter::worth_describing(const Value& value) const {
  if (!value.doc_string.empty() || !value.metadata.empty()) return true;
  if (value.type().kind == Type::Kind::kNone) return false;
  if (described_ != nullptr && !described_->contains(value.name())) return false;
  const Tensor* constant = value.constant();
  return constant == nullptr || value.type() != Type::tensor(constant->dtype(), constant->dims());
}

bool is_output_of(const Value& value, const Graph& graph) {
  return std::any_of(value.uses().begin(), value.uses().end(), [&](const Use& use) { return use.graph == &graph; });
}

Status Exporter::graph(const Graph& graph, onnx::GraphProto& proto) {
  proto.set_name(graph.name);
  if (!graph.doc_string.empty()) proto.set_doc_string(graph.doc_string);
  export_metadata(graph.metadata, proto.mutable_metadata_props());
  for (const Value* input : graph.inputs()) {
    if (!drop_constant_inputs_ || input->initializer() == nullptr) export_info(*input, *proto.add_input());
  }
  for (const Value* output : graph.outputs()) export_info(*output, *proto.add_output());
  for (const Node* each : graph.nodes()) {
    if (hoisted(*each)) {
      OF_TRY(initializer(*each->output(), *each->output()->constant(), proto));
    } else {
      OF_TRY(node(*each, *proto.add_node()));
    }
  }
  for (const Value* value : graph.values()) {
    if (const Tensor* tensor = value->initializer()) {
      OF_TRY(initializer(*value, *tensor, proto));
    } else if (const SparseTensor* tensor_sparse = value->sparse_initializer()) {
      OF_TRY(sparse(*tensor_sparse, *proto.add_sparse_initializer()));
    } else if (value->producer() != nullptr && !is_output_of(*value, graph) && !hoisted(*value->producer()) &&
               worth_describing(*value)) {
      export_info(*value, *proto.add_value_info());
    }
    if (!value->quantization.empty()) {
      auto* annotation = proto.add_quantization_annotation();
      annotation->set_tensor_name(value->name());
      export_metadata(value->quantization, annotation->mutable_quant_parameter_tensor_names());
    }
  }
  return {};
}

Status Exporter::node(const Node& node, onnx::NodeProto& proto) {
  if (!node.opaque.empty()) proto.ParseFromString(node.opaque);
  proto.set_op_type(node.op_type());
  if (!node.domain().empty()) proto.set_domain(node.domain());
  if (!node.name.empty()) proto.set_name(node.name);
  if (!node.overload.empty()) proto.set_overload(node.overload);
  if (!node.doc_string.empty()) proto.set_doc_string(node.doc_string);
  export_metadata(node.metadata, proto.mutable_metadata_props());
  for (const Value* input : node.inputs()) proto.add_input(input != nullptr ? input->name() : "");
  for (const Value* output : node.outputs()) proto.add_output(output != nullptr ? output->name() : "");
  for (const Attribute& each : node.attributes()) OF_TRY(attribute(each, *proto.add_attribute()));
  return {};
}

Status Exporter::attribute(const Attribute& attribute, onnx::AttributeProto& proto) {
  proto.set_name(attribute.name);
  if (!attribute.doc_string.empty()) proto.set_doc_string(attribute.doc_string);
  const auto kind = [&proto](onnx::AttributeProto::AttributeType type) { proto.set_type(type); };
  return std::visit(
      [&](const auto& held) -> Status {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, float>) {
          kind(onnx::AttributeProto::FLOAT);
          proto.set_f(held);
        } else if constexpr (std::is_same_v<T, std::int64_t>) {
          kind(onnx::AttributeProto::INT);
          proto.set_i(held);
        } else if constexpr (std::is_same_v<T, std::string>) {
          kind(onnx::AttributeProto::STRING);
          proto.set_s(held);
        } else if constexpr (std::is_same_v<T, Tensor>) {
          kind(onnx::AttributeProto::TENSOR);
          return export_tensor(held, attribute.tensor_name, data_, *proto.mutable_t());
        } else if constexpr (std::is_same_v<T, std::unique_ptr<Graph>>) {
          kind(onnx::AttributeProto::GRAPH);
          return graph(*held, *proto.mutable_g());
        } else if constexpr (std::is_same_v<T, SparseTensor>) {
          kind(onnx::AttributeProto::SPARSE_TENSOR);
          return sparse(held, *proto.mutable_sparse_tensor());
        } else if constexpr (std::is_same_v<T, Type>) {
          kind(onnx::AttributeProto::TYPE_PROTO);
          export_type(held, *proto.mutable_tp());
        } else if constexpr (std::is_same_v<T, AttributeReference>) {
          proto.set_ref_attr_name(held.name);
          kind(static_cast<onnx::AttributeProto::AttributeType>(held.type));
        } else if constexpr (std::is_same_v<T, std::vector<float>>) {
          kind(onnx::AttributeProto::FLOATS);
          proto.mutable_floats()->Add(held.begin(), held.end());
        } else if constexpr (std::is_same_v<T, std::vector<std::int64_t>>) {
          kind(onnx::AttributeProto::INTS);
          proto.mutable_ints()->Add(held.begin(), held.end());
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          kind(onnx::AttributeProto::STRINGS);
          for (const std::string& each : held) proto.add_strings(each);
        } else if constexpr (std::is_same_v<T, std::vector<Tensor>>) {
          kind(onnx::AttributeProto::TENSORS);
          for (const Tensor& each : held) OF_TRY(export_tensor(each, "", data_, *proto.add_tensors()));
        } else if constexpr (std::is_same_v<T, std::vector<std::unique_ptr<Graph>>>) {
          kind(onnx::AttributeProto::GRAPHS);
          for (const auto& each : held) OF_TRY(graph(*each, *proto.add_graphs()));
        } else if constexpr (std::is_same_v<T, std::vector<SparseTensor>>) {
          kind(onnx::AttributeProto::SPARSE_TENSORS);
          for (const SparseTensor& each : held) OF_TRY(sparse(each, *proto.add_sparse_tensors()));
        } else {
          kind(onnx::AttributeProto::TYPE_PROTOS);
          for (const Type& each : held) export_type(each, *proto.add_type_protos());
        }
        return {};
      },
      attribute.value);
}

void collect_described(const Graph& graph, ValueNames& names) {
  for (const Value* value : graph.values()) {
    if (value->type().kind != Type::Kind::kNone) names.insert(value->name());
  }
  for (const Node* node : graph.nodes()) {
    for (const Graph* inner : node->subgraphs()) collect_described(*inner, names);
  }
}

Status export_function(const Function& function, Exporter& exporter, onnx::FunctionProto& proto) {
  proto.set_domain(function.domain);
  proto.set_name(function.name);
  if (!function.overload.empty()) proto.set_overload(function.overload);
  if (!function.doc_string.empty()) proto.set_doc_string(function.doc_string);
  for (const std::string& name : function.attributes) proto.add_attribute(name);
  for (const Attribute& each : function.defaults) OF_TRY(exporter.attribute(each, *proto.add_attribute_proto()));
  for (const auto& [domain, version] : needed_opsets(*function.body, function.opset_imports)) {
    auto* import = proto.add_opset_import();
    import->set_domain(domain);
    import->set_version(version);
  }
  export_metadata(function.metadata, proto.mutable_metadata_props());
  const Graph& body = *function.body;
  for (const Value* input : body.inputs()) proto.add_input(input->name());
  for (const Value* output : body.outputs()) proto.add_output(output->name());
  for (const Node* node : body.nodes()) OF_TRY(exporter.node(*node, *proto.add_node()));
  for (const Value* value : body.values()) {
    if (exporter.worth_describing(*value)) export_info(*value, *proto.add_value_info());
  }
  return {};
}

}  // namespace

Status export_inline(const Tensor& tensor, onnx::TensorProto& proto) {
  if (tensor.dtype() == DType::kString) {
    for (const std::string& text : tensor.string_data()) proto.add_string_data(text);
    return {};
  }
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  proto.set_raw_data(bytes.data(), bytes.size());
  return {};
}

TensorExporter export_small(std::int64_t limit) {
  return [limit](const Tensor& tensor, onnx::TensorProto& proto) -> Status {
    if (tensor.dtype() == DType::kString || tensor.nbytes() <= limit) return export_inline(tensor, proto);
    proto.set_data_location(onnx::TensorProto::EXTERNAL);
    return {};
  };
}

Status export_tensor(const Tensor& tensor, const std::string& name, const TensorExporter& data,
                     onnx::TensorProto& proto) {
  if (!name.empty()) proto.set_name(name);
  proto.set_data_type(static_cast<std::int32_t>(tensor.dtype()));
  for (const std::int64_t dim : tensor.dims()) proto.add_dims(dim);
  if (auto status = data(tensor, proto); !status) return fail(status.error().in(fmt::format("tensor '{}'", name)));
  return {};
}

void export_type(const Type& type, onnx::TypeProto& proto) {
  if (!type.denotation.empty()) proto.set_denotation(type.denotation);
  switch (type.kind) {
    case Type::Kind::kNone:
      return;
    case Type::Kind::kTensor:
      proto.mutable_tensor_type()->set_elem_type(static_cast<std::int32_t>(type.dtype));
      if (type.shape) export_shape(*type.shape, *proto.mutable_tensor_type()->mutable_shape());
      return;
    case Type::Kind::kSparseTensor:
      proto.mutable_sparse_tensor_type()->set_elem_type(static_cast<std::int32_t>(type.dtype));
      if (type.shape) export_shape(*type.shape, *proto.mutable_sparse_tensor_type()->mutable_shape());
      return;
    case Type::Kind::kSequence:
      proto.mutable_sequence_type();
      if (!type.inner.empty()) export_type(type.inner.front(), *proto.mutable_sequence_type()->mutable_elem_type());
      return;
    case Type::Kind::kOptional:
      proto.mutable_optional_type();
      if (!type.inner.empty()) export_type(type.inner.front(), *proto.mutable_optional_type()->mutable_elem_type());
      return;
    case Type::Kind::kMap:
      proto.mutable_map_type()->set_key_type(static_cast<std::int32_t>(type.dtype));
      if (!type.inner.empty()) export_type(type.inner.front(), *proto.mutable_map_type()->mutable_value_type());
      return;
    case Type::Kind::kOpaque:
      proto.mutable_opaque_type()->set_domain(type.opaque_domain);
      proto.mutable_opaque_type()->set_name(type.opaque_name);
      return;
  }
}

Status export_node(const Node& node, const TensorExporter& data, onnx::NodeProto& proto) {
  const HoistConstant none;
  return Exporter(data, none).node(node, proto);
}

Status export_model(const Model& model, const TensorExporter& data, const HoistConstant& hoist, onnx::ModelProto& proto,
                    const ValueNames* described) {
  if (!model.opaque.empty()) proto.ParseFromString(model.opaque);
  proto.set_ir_version(needed_ir_version(model, hoist != nullptr));
  OpsetImports imports = needed_opsets(model.graph(), model.opset_imports);
  // IR versions 1 and 2 mean opset 1 and may not say so.
  if (proto.ir_version() < 3 && imports == OpsetImports{{"", 1}}) imports.clear();
  for (const auto& [domain, version] : imports) {
    auto* import = proto.add_opset_import();
    import->set_domain(domain);
    import->set_version(version);
  }
  if (!model.producer_name.empty()) proto.set_producer_name(model.producer_name);
  if (!model.producer_version.empty()) proto.set_producer_version(model.producer_version);
  if (!model.domain.empty()) proto.set_domain(model.domain);
  if (model.model_version != 0) proto.set_model_version(model.model_version);
  if (!model.doc_string.empty()) proto.set_doc_string(model.doc_string);
  export_metadata(model.metadata, proto.mutable_metadata_props());
  const bool raised = model.ir_version > 0 && model.ir_version < 4 && proto.ir_version() >= 4;
  Exporter exporter(data, hoist, raised, described);
  for (const auto& function : model.functions) OF_TRY(export_function(*function, exporter, *proto.add_functions()));
  return exporter.graph(model.graph(), *proto.mutable_graph());
}

}  // namespace onnxfold::onnx_proto

namespace onnxfold {

ValueNames described_values(const Model& model) {
  ValueNames names;
  onnx_proto::collect_described(model.graph(), names);
  for (const auto& function : model.functions) onnx_proto::collect_described(*function->body, names);
  return names;
}

}  // namespace onnxfold
