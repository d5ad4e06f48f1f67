#include "ir/type.h"

#include <fmt/format.h>

namespace onnxfold {

Type Type::tensor(DType dtype) {
  Type type;
  type.kind = Kind::kTensor;
  type.dtype = dtype;
  return type;
}

Type Type::tensor(DType dtype, const std::vector<std::int64_t>& dims) {
  Type type = tensor(dtype);
  type.shape.emplace();
  for (const std::int64_t dim : dims) type.shape->push_back(Dim{dim, {}, {}});
  return type;
}

Type Type::tensor(DType dtype, std::vector<Dim> dims) {
  Type type = tensor(dtype);
  type.shape = std::move(dims);
  return type;
}

std::optional<std::vector<std::int64_t>> Type::static_dims() const {
  if (!is_tensor() || !shape) return {};
  std::vector<std::int64_t> dims;
  for (const Dim& dim : *shape) {
    if (!dim.known()) return {};
    dims.push_back(*dim.value);
  }
  return dims;
}

std::optional<int> Type::rank() const {
  if (!is_tensor() || !shape) return {};
  return static_cast<int>(shape->size());
}

namespace {

std::string shape_text(const Type& type) {
  if (!type.shape) return "[...]";
  std::string text = "[";
  for (std::size_t i = 0; i < type.shape->size(); ++i) {
    const Dim& dim = (*type.shape)[i];
    if (i > 0) text += ",";
    text += dim.value ? std::to_string(*dim.value) : dim.symbol.empty() ? "?" : dim.symbol;
  }
  return text + "]";
}

std::string inner_text(const Type& type) { return type.inner.empty() ? "?" : to_string(type.inner.front()); }

}  // namespace

std::string to_string(const Type& type) {
  switch (type.kind) {
    case Type::Kind::kNone:
      return "?";
    case Type::Kind::kTensor:
      return fmt::format("{}{}", name(type.dtype), shape_text(type));
    case Type::Kind::kSparseTensor:
      return fmt::format("sparse({}{})", name(type.dtype), shape_text(type));
    case Type::Kind::kSequence:
      return fmt::format("seq({})", inner_text(type));
    case Type::Kind::kOptional:
      return fmt::format("optional({})", inner_text(type));
    case Type::Kind::kMap:
      return fmt::format("map({},{})", name(type.dtype), inner_text(type));
    case Type::Kind::kOpaque:
      return fmt::format("opaque({},{})", type.opaque_domain, type.opaque_name);
  }
  return "?";
}

}  // namespace onnxfold
