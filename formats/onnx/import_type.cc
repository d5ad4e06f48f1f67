// TypeProto -> Type.
#include <fmt/format.h>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {

Result<Type> import_type(const onnx::TypeProto& proto) {
  Type type;
  const auto element = [](std::int32_t code) -> Result<DType> {
    if (code >= 0 && code <= static_cast<std::int32_t>(DType::kInt2)) return static_cast<DType>(code);
    return fail(Code::kUnsupported, fmt::format("a value of element type {}", code));
  };
  type.denotation = proto.denotation();
  const auto shape = [](const onnx::TensorShapeProto& dims) {
    std::vector<Dim> made;
    for (const auto& dim : dims.dim()) {
      Dim one;
      if (dim.has_dim_value()) one.value = dim.dim_value();
      one.symbol = dim.dim_param();
      one.denotation = dim.denotation();
      made.push_back(std::move(one));
    }
    return made;
  };
  const auto inner = [&](const onnx::TypeProto& nested) -> Status {
    OF_ASSIGN(Type made, import_type(nested));
    type.inner.push_back(std::move(made));
    return {};
  };
  switch (proto.value_case()) {
    case onnx::TypeProto::kTensorType:
      type.kind = Type::Kind::kTensor;
      OF_TRY(element(proto.tensor_type().elem_type()).map([&](DType dtype) { type.dtype = dtype; }));
      if (proto.tensor_type().has_shape()) type.shape = shape(proto.tensor_type().shape());
      break;
    case onnx::TypeProto::kSparseTensorType:
      type.kind = Type::Kind::kSparseTensor;
      OF_TRY(element(proto.sparse_tensor_type().elem_type()).map([&](DType dtype) { type.dtype = dtype; }));
      if (proto.sparse_tensor_type().has_shape()) type.shape = shape(proto.sparse_tensor_type().shape());
      break;
    case onnx::TypeProto::kSequenceType:
      type.kind = Type::Kind::kSequence;
      OF_TRY(inner(proto.sequence_type().elem_type()));
      break;
    case onnx::TypeProto::kOptionalType:
      type.kind = Type::Kind::kOptional;
      OF_TRY(inner(proto.optional_type().elem_type()));
      break;
    case onnx::TypeProto::kMapType:
      type.kind = Type::Kind::kMap;
      OF_TRY(element(proto.map_type().key_type()).map([&](DType dtype) { type.dtype = dtype; }));
      OF_TRY(inner(proto.map_type().value_type()));
      break;
    case onnx::TypeProto::kOpaqueType:
      type.kind = Type::Kind::kOpaque;
      type.opaque_domain = proto.opaque_type().domain();
      type.opaque_name = proto.opaque_type().name();
      break;
    case onnx::TypeProto::VALUE_NOT_SET:
      break;
  }
  return type;
}

}  // namespace onnxfold::onnx_proto
