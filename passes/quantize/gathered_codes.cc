#include "passes/quantize/gathered_codes.h"

#include <cstring>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool gathers_rows(const Node* node) { return node != nullptr && node->attr_int("axis", 0) % 2 == 0; }

std::optional<GatheredCodes> in_order(const Value* numbers, const Value* steps) {
  const Node* cast = sole_producer(numbers, "Cast");
  if (cast == nullptr || numbers->dtype() != DType::kFloat32) return {};
  const Node *codes = sole_producer(cast->input(0), "Gather"), *scales = sole_producer(steps, "Gather");
  if (!gathers_rows(codes) || !gathers_rows(scales) || codes->input(1) != scales->input(1)) return {};
  const Tensor *table = constant(codes->input(0)), *by_row = constant(scales->input(0));
  if (table == nullptr || by_row == nullptr || table->rank() != 2 || by_row->rank() != 2) return {};
  if (table->dtype() != DType::kInt8 && table->dtype() != DType::kUint8) return {};
  if (by_row->dtype() != DType::kFloat32 || by_row->dims() != Dims{table->dims()[0], 1}) return {};
  return GatheredCodes{codes->input(0), scales->input(0), codes->input(1)};
}

}  // namespace

std::optional<GatheredCodes> gathered_codes(const Node& mul) {
  if (!mul.is("Mul") || mul.output()->dtype() != DType::kFloat32) return {};
  const auto found = in_order(mul.input(0), mul.input(1));
  return found ? found : in_order(mul.input(1), mul.input(0));
}

Tensor decoded_rows(const GatheredCodes& codes) {
  const Tensor table = *constant(codes.codes), by_row = *constant(codes.scales);
  return Tensor::deferred(DType::kFloat32, table.dims(), [table, by_row]() -> Result<Buffer> {
    OF_ASSIGN(const std::vector<float> numbers, to_floats(table));
    OF_ASSIGN(const std::vector<float> scales, to_floats(by_row));
    const auto columns = static_cast<std::size_t>(table.dims()[1]);
    Buffer out(numbers.size() * sizeof(float));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const float value = numbers[i] * scales[i / columns];
      std::memcpy(out.data() + i * sizeof(float), &value, sizeof(float));
    }
    return out;
  });
}

}  // namespace onnxfold
