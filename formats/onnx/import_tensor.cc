// TensorProto -> Tensor.
#include <fmt/format.h>

#include <cstring>

#include "formats/onnx/proto.h"

namespace onnxfold::onnx_proto {
namespace {

// raw_data moved out of the proto and kept alive as long as somebody reads it.
class StringSource final : public TensorSource {
 public:
  explicit StringSource(std::string data) : data_(std::make_shared<const std::string>(std::move(data))) {}
  Result<Bytes> load() const override {
    return Bytes({reinterpret_cast<const std::byte*>(data_->data()), data_->size()}, data_);
  }

 private:
  std::shared_ptr<const std::string> data_;
};

tl::unexpected<Error> corrupt(const onnx::TensorProto& proto, const std::string& what) {
  return fail(Code::kCorrupt, fmt::format("tensor '{}': {}", proto.name(), what));
}

Result<Dims> read_dims(const onnx::TensorProto& proto) {
  Dims dims(proto.dims().begin(), proto.dims().end());
  std::int64_t count = 1;
  bool empty = false;
  for (const std::int64_t dim : dims) {
    if (dim < 0) return corrupt(proto, fmt::format("dimension {} is negative", dim));
    empty = empty || dim == 0;
  }
  for (const std::int64_t dim : dims) {
    if (!empty && __builtin_mul_overflow(count, dim, &count)) return corrupt(proto, "its dimensions overflow");
  }
  return dims;
}

// Narrow integers, bool and 16-bit floats travel one element (or packed byte) per int32 entry.
template <typename Out, typename Field>
Buffer narrow(const Field& field) {
  Buffer data(static_cast<std::size_t>(field.size()) * sizeof(Out));
  std::byte* at = data.data();
  for (const auto entry : field) {
    const auto value = static_cast<Out>(entry);
    std::memcpy(at, &value, sizeof(Out));
    at += sizeof(Out);
  }
  return data;
}

Buffer from_int32s(DType dtype, const onnx::TensorProto& proto) {
  switch (dtype) {
    case DType::kInt32:
      return narrow<std::int32_t>(proto.int32_data());
    case DType::kInt16:
    case DType::kUint16:
    case DType::kFloat16:
    case DType::kBFloat16:
      return narrow<std::uint16_t>(proto.int32_data());
    default:
      return narrow<std::uint8_t>(proto.int32_data());
  }
}

Buffer from_typed_field(DType dtype, const onnx::TensorProto& proto) {
  switch (dtype) {
    case DType::kFloat32:
    case DType::kComplex64:
      return narrow<float>(proto.float_data());
    case DType::kFloat64:
    case DType::kComplex128:
      return narrow<double>(proto.double_data());
    case DType::kInt64:
      return narrow<std::int64_t>(proto.int64_data());
    case DType::kUint64:
      return narrow<std::uint64_t>(proto.uint64_data());
    case DType::kUint32:
      return narrow<std::uint32_t>(proto.uint64_data());
    default:
      return from_int32s(dtype, proto);
  }
}

Result<Tensor> import_strings(onnx::TensorProto& proto, Dims dims) {
  if (proto.string_data_size() != element_count(dims)) {
    return corrupt(
        proto, fmt::format("holds {} strings where its shape needs {}", proto.string_data_size(), element_count(dims)));
  }
  std::vector<std::string> strings;
  for (std::string& text : *proto.mutable_string_data()) strings.push_back(std::move(text));
  return Tensor::strings(std::move(dims), std::move(strings));
}

}  // namespace

Result<Tensor> import_tensor(onnx::TensorProto& proto, const ExternalOpener& external) {
  const auto dtype = static_cast<DType>(proto.data_type());
  if (proto.data_type() == onnx::TensorProto::UNDEFINED) return corrupt(proto, "has no element type");
  if (proto.data_type() < 0 || proto.data_type() > static_cast<int>(DType::kInt2)) {
    return fail(Code::kUnsupported, fmt::format("tensor '{}': element type {}", proto.name(), proto.data_type()));
  }
  if (!proto.unknown_fields().empty()) {
    return fail(Code::kUnsupported, fmt::format("tensor '{}': fields newer than ONNX 1.23", proto.name()));
  }
  const bool outside = proto.data_location() == onnx::TensorProto::EXTERNAL;
  if (proto.has_segment() && (!outside || !external)) {
    return fail(Code::kUnsupported, fmt::format("tensor '{}': segmented tensors", proto.name()));
  }
  OF_ASSIGN(Dims dims, read_dims(proto));
  if (outside) {
    if (!external) return corrupt(proto, "external data is not possible here");
    return external(proto, dtype, std::move(dims));
  }
  if (dtype == DType::kString) return import_strings(proto, std::move(dims));
  const auto expected = packed_bytes(dtype, element_count(dims));
  if (!expected) return corrupt(proto, "its size overflows");
  const auto check = [&](std::size_t found) -> Status {
    if (static_cast<std::int64_t>(found) == *expected) return {};
    return corrupt(proto, fmt::format("holds {} bytes where its shape needs {}", found, *expected));
  };
  // Some writers set an empty raw_data beside a typed field.
  if (proto.has_raw_data() && (!proto.raw_data().empty() || *expected == 0)) {
    OF_TRY(check(proto.raw_data().size()));
    std::unique_ptr<std::string> raw(proto.release_raw_data());
    return Tensor::from_source(dtype, std::move(dims), std::make_shared<StringSource>(std::move(*raw)));
  }
  Buffer data = from_typed_field(dtype, proto);
  OF_TRY(check(data.size()));
  return Tensor::owned(dtype, std::move(dims), std::move(data));
}

}  // namespace onnxfold::onnx_proto
