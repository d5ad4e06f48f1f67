#include "analysis/calibrate/derived_inputs.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::string lower(const std::string& text) {
  std::string result = text;
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::tolower(c); });
  return result;
}

}  // namespace

InputRole role_of(const Value& input) {
  const std::string name = lower(input.name());
  if (contains(name, "mask")) return InputRole::kMask;
  if (!is_integer(input.dtype())) return InputRole::kPlain;
  if (contains(name, "token_type") || contains(name, "segment_id")) return InputRole::kTokenType;
  if (contains(name, "position_id") || contains(name, "cache_position")) return InputRole::kPosition;
  const bool lengths = contains(name, "length") || name.ends_with("_len") || name.ends_with("_lens");
  if (lengths && input.rank().value_or(2) <= 1) return InputRole::kLength;
  return InputRole::kPlain;
}

bool can_derive(const Value& input) {
  const auto rank = input.rank();
  return role_of(input) != InputRole::kPlain && rank && *rank == 2;
}

Result<Datum> derive_input(const Value& input, const Feeds& feeds, std::size_t) {
  for (const auto& [name, datum] : feeds) {
    if (!datum.is_array() || datum.array.rank() != 2 || !is_integer(datum.array.dtype())) continue;
    const Dims dims = datum.array.dims();
    std::vector<double> values(static_cast<std::size_t>(element_count(dims)), 0.0);
    const InputRole role = role_of(input);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (role == InputRole::kMask) values[i] = 1;
      if (role == InputRole::kPosition) values[i] = static_cast<double>(static_cast<std::int64_t>(i) % dims[1]);
    }
    OF_ASSIGN(const Tensor tensor, from_doubles(input.dtype(), dims, values));
    OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat32));
    return Datum(std::move(array));
  }
  return fail(Code::kInvalidArgument, fmt::format("no array for input '{}' {}", input.name(), to_string(input.type())));
}

}  // namespace onnxfold
