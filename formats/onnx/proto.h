// Internal to formats/onnx: the pieces of protobuf <-> IR that its files share. Not installed for users.
#pragma once

#include <onnx/onnx_pb.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "formats/onnx/onnx_file.h"
#include "ir/model.h"

namespace onnxfold::onnx_proto {

// ---- proto -> IR ----

// How a tensor with data_location EXTERNAL is opened; null where external data is not allowed.
using ExternalOpener = std::function<Result<Tensor>(const onnx::TensorProto&, DType, Dims)>;

// Takes the data out of the proto (raw_data is moved, not copied). Errors name the tensor.
Result<Tensor> import_tensor(onnx::TensorProto& proto, const ExternalOpener& external);
Result<Type> import_type(const onnx::TypeProto& proto);
Result<std::unique_ptr<Model>> import_model(onnx::ModelProto&& proto, const ExternalOpener& external);
Result<std::unique_ptr<Function>> import_function(onnx::FunctionProto& proto);

// ---- IR -> proto ----

// What becomes of a tensor's bytes when a graph is turned into a proto.
using TensorExporter = std::function<Status(const Tensor&, onnx::TensorProto&)>;
// Bytes into raw_data (or string_data).
Status export_inline(const Tensor& tensor, onnx::TensorProto& proto);
// Up to `limit` bytes inline; larger ones keep type and dims and are marked external without a place, so that ONNX
// knows the shape and nobody copies weights.
TensorExporter export_small(std::int64_t limit);

Status export_tensor(const Tensor& tensor, const std::string& name, const TensorExporter& data,
                     onnx::TensorProto& proto);
void export_type(const Type& type, onnx::TypeProto& proto);
Status export_node(const Node& node, const TensorExporter& data, onnx::NodeProto& proto);
// `hoist`: Constant nodes for which it returns true are written as initializers (null: none).
using HoistConstant = std::function<bool(const Tensor&)>;
// `described`: of inner values only these get a type in value_info (null: all that have one).
Status export_model(const Model& model, const TensorExporter& data, const HoistConstant& hoist, onnx::ModelProto& proto,
                    const ValueNames* described = nullptr);

// Tag and length in front of a length-delimited field (protobuf encoding), for messages that are written by hand.
std::string field_header(std::uint32_t field, std::int64_t length);

// The lowest IR version that can carry the content, not below the declared one.
std::int64_t needed_ir_version(const Model& model, bool hoisting);
// The declared imports and those of domains that nodes use without declaring.
OpsetImports needed_opsets(const Graph& graph, const OpsetImports& declared);

}  // namespace onnxfold::onnx_proto
