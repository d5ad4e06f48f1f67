// Softmax(x) => E / ReduceSum(E), E = Gather(table of exp(-d), QuantizeLinear(ReduceMax(x) - x))
#include <cmath>

#include "passes/quantize/bct/tables.h"

namespace onnxfold {
namespace {

constexpr double kOne = 32767;  // what exp(0) becomes, in int16; smaller entries would flatten long rows
constexpr int kRangePower = 4;  // d up to 16: exp(-11.1) is half a step of the entries

}  // namespace

Value* emit_softmax_table(BctWriter& writer, const SoftmaxSite& site, int bits) {
  Value* x = site.node->input(0);
  const Type& type = x->type();
  Type reduced = type;
  const std::int64_t rank = x->rank().value_or(0);
  if (reduced.shape && rank > 0) {
    (*reduced.shape)[static_cast<std::size_t>(site.axis < 0 ? site.axis + rank : site.axis)] = Dim{1, "", ""};
  }
  Value* axes = writer.axes({site.axis});
  Value* most = writer.add("ReduceMax", {x, axes}, reduced, attributes("keepdims", std::int64_t{1}));
  Value* distance = writer.add("Sub", {most, x}, type);
  const DType index = bits > 8 ? DType::kUint16 : DType::kUint8;
  Value* step = writer.number(std::ldexp(1.0F, kRangePower - bits));
  Value* codes = writer.add("QuantizeLinear", {distance, step, writer.zeros(index, 1)}, with_dtype(type, index));
  Value* wide = writer.add("Cast", {codes}, with_dtype(type, DType::kInt32),
                           attributes("to", static_cast<std::int64_t>(DType::kInt32)));
  const std::int32_t last = (1 << bits) - 1;
  if (bits != 8 && bits != 16) {
    wide = writer.add("Min", {wide, writer.ints({}, {last})}, with_dtype(type, DType::kInt32));
  }
  std::vector<std::int16_t> table;
  for (std::int32_t d = 0; d <= last; ++d) {
    // The last entry is what lies beyond, masked positions among it.
    const double value = d == last ? 0 : kOne * std::exp(-std::ldexp(d, kRangePower - bits));
    table.push_back(static_cast<std::int16_t>(std::nearbyint(value)));
  }
  Value* entries = writer.tensor(Tensor::of<std::int16_t>({static_cast<std::int64_t>(table.size())}, table));
  Value* powers = writer.add("Gather", {entries, wide}, with_dtype(type, DType::kInt16));
  powers = writer.add("Cast", {powers}, type, attributes("to", static_cast<std::int64_t>(DType::kFloat32)));
  Value* sum = writer.add("ReduceSum", {powers, axes}, reduced, attributes("keepdims", std::int64_t{1}));
  return writer.add("Div", {powers, sum}, type);
}

}  // namespace onnxfold
