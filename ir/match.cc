#include "ir/match.h"

namespace onnxfold {

Node* sole_producer(const Value* value, std::string_view op_type, std::string_view domain) {
  if (value == nullptr || value->producer() == nullptr || !value->producer()->is(op_type, domain)) return nullptr;
  return sole_consumer(value) != nullptr ? value->producer() : nullptr;
}

Node* sole_consumer(const Value* value) {
  if (value == nullptr || value->uses().size() != 1) return nullptr;
  Node* node = value->uses().front().node;
  return node != nullptr && node->graph() == value->graph() ? node : nullptr;
}

const Tensor* constant(const Value* value) { return value == nullptr ? nullptr : value->constant(); }

std::optional<double> scalar_constant(const Value* value) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->size() != 1 || tensor->dtype() == DType::kString) return std::nullopt;
  const Result<std::vector<double>> numbers = to_doubles(*tensor);
  if (!numbers || numbers->size() != 1) return std::nullopt;
  return numbers->front();
}

std::optional<std::vector<std::int64_t>> int_constants(const Value* value) {
  constexpr std::int64_t kLargestList = 4096;  // shapes, axes, index lists; not weights
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->size() > kLargestList) return std::nullopt;
  if (!is_integer(tensor->dtype())) return std::nullopt;
  Result<std::vector<std::int64_t>> numbers = to_int64s(*tensor);
  if (!numbers) return std::nullopt;
  return std::move(*numbers);
}

bool swaps_axes(const Node& transpose) {
  const auto perm = transpose.attr_ints("perm");
  return !perm || *perm == std::vector<std::int64_t>{1, 0};
}

}  // namespace onnxfold
