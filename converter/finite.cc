#include "converter/finite.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "analysis/structure/correspondence.h"
#include "exec/array.h"

namespace onnxfold {
namespace {

template <typename T>
bool any_wild(const std::byte* bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    if (!std::isfinite(value)) return true;
  }
  return false;
}

std::string wild_element(const std::vector<double>& numbers) {
  const auto at = std::find_if(numbers.begin(), numbers.end(), [](double x) { return !std::isfinite(x); });
  return fmt::format("holds {} at element {}", std::isnan(*at) ? "NaN" : "infinity", at - numbers.begin());
}

bool is_mask(const std::vector<double>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](double x) { return x == 0 || std::isinf(x); });
}

// Single floats, the most common type, are looked at where they lie.
Result<bool> is_finite(const Tensor& tensor) {
  if (tensor.dtype() != DType::kFloat32) return false;
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  return !any_wild<float>(bytes.data(), tensor.size());
}

}  // namespace

Status check_finite_weights(const Graph& graph) {
  for (const Value* value : graph.values()) {
    const Tensor* tensor = parameter(value);
    if (tensor == nullptr || !is_float(tensor->dtype())) continue;
    OF_ASSIGN(const bool finite, is_finite(*tensor));
    if (finite) continue;
    OF_ASSIGN(const std::vector<double> numbers, to_doubles(*tensor));
    const bool fine = std::all_of(numbers.begin(), numbers.end(), [](double x) { return std::isfinite(x); });
    if (fine || is_mask(numbers)) continue;
    return fail(Code::kInvalidArgument, fmt::format("weight '{}' {}", value->name(), wild_element(numbers)));
  }
  return {};
}

Status check_finite_inputs(const Dataset& data) {
  for (std::size_t batch = 0; batch < data.batches.size(); ++batch) {
    for (const auto& [name, datum] : data.batches[batch]) {
      if (!datum.is_array() || !is_float(datum.array.dtype())) continue;
      OF_ASSIGN(const std::vector<double> numbers, to_doubles(datum.array));
      const bool fine = std::all_of(numbers.begin(), numbers.end(), [](double x) { return std::isfinite(x); });
      if (fine) continue;
      return fail(Code::kInvalidArgument,
                  fmt::format("input '{}' {} of batch {}", name, wild_element(numbers), batch + 1));
    }
  }
  return {};
}

}  // namespace onnxfold
