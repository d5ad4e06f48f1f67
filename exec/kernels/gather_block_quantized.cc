// com.microsoft GatherBlockQuantized: Gather from a table of 2, 4 or 8 bits, dequantized in blocks along quantize_axis.
#include <fmt/format.h>

#include <algorithm>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

struct Table {
  Dims dims;  // logical
  std::int64_t bits = 4, block = 128, blocks = 0;
  bool packed = false;  // uint8 bytes that hold several codes, low bits first
  AxisView quantized;   // around quantize_axis
  double missing_zero = 0;
};

Result<Table> read_table(const KernelContext& ctx, const Array& data) {
  Table t;
  t.bits = ctx.attr("bits", std::int64_t{4});
  t.block = ctx.attr("block_size", std::int64_t{128});
  t.dims = data.dims();
  t.packed = data.dtype() == DType::kUint8;
  if (!t.packed && data.dtype() != DType::kInt4 && data.dtype() != DType::kUint4)
    return ctx.unsupported("this table type");
  if (t.bits != 2 && t.bits != 4 && t.bits != 8) return ctx.unsupported(fmt::format("{} bits", t.bits));
  if (t.block < 16 || (t.block & (t.block - 1)) != 0)
    return ctx.invalid("block_size must be a power of two of at least 16");
  if (t.dims.empty()) return ctx.invalid("the table is a scalar");
  if (t.packed) {
    t.dims.back() *= 8 / t.bits;
    t.missing_zero = static_cast<double>(std::int64_t{1} << (t.bits - 1));
  }
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("quantize_axis", std::int64_t{1}), data.rank()));
  if (t.packed && axis + 1 != t.dims.size())
    return ctx.unsupported("a uint8 table quantized along another axis than the last");
  t.quantized = axis_view(t.dims, axis);
  t.blocks = (t.quantized.dim + t.block - 1) / t.block;
  const std::int64_t scales = t.quantized.outer * t.blocks * t.quantized.inner;
  if (ctx.in(2).size() != scales)
    return ctx.invalid(fmt::format("{} scales where {} are due", ctx.in(2).size(), scales));
  if (ctx.has(3)) {
    const std::int64_t due = t.packed ? t.quantized.outer * ((t.blocks * t.bits + 7) / 8) : scales;
    if (ctx.in(3).size() != due)
      return ctx.invalid(fmt::format("{} zero points where {} are due", ctx.in(3).size(), due));
  }
  return t;
}

class Decoder {
 public:
  Decoder(const KernelContext& ctx, const Table& table)
      : table_(table), data_(ctx.in(0)), zeros_(ctx.has(3) ? ctx.in(3) : Array()) {}

  // Code minus zero point of the element at a flat logical index; also where its scale is.
  double at(std::int64_t flat, std::int64_t& scale) const {
    const AxisView& q = table_.quantized;
    const std::int64_t inner = flat % q.inner;
    const std::int64_t along = flat / q.inner % q.dim;
    const std::int64_t outer = flat / (q.inner * q.dim);
    const std::int64_t block = along / table_.block;
    scale = (outer * table_.blocks + block) * q.inner + inner;
    return code(flat) - zero(outer, block, scale);
  }

 private:
  double code(std::int64_t flat) const {
    if (!table_.packed) return number(data_, flat);
    const std::int64_t bit = flat * table_.bits;
    const unsigned byte = data_.data<std::uint8_t>()[bit / 8];
    return (byte >> (bit % 8)) & ((1U << table_.bits) - 1);
  }

  double zero(std::int64_t outer, std::int64_t block, std::int64_t scale) const {
    if (!zeros_.defined()) return table_.missing_zero;
    if (!table_.packed) return number(zeros_, scale);
    const std::int64_t row = (table_.blocks * table_.bits + 7) / 8;
    const std::int64_t bit = block * table_.bits;
    const unsigned byte = zeros_.data<std::uint8_t>()[outer * row + bit / 8];
    return (byte >> (bit % 8)) & ((1U << table_.bits) - 1);
  }

  static double number(const Array& array, std::int64_t i) {
    return array.storage() == Storage::kInt8 ? array.data<std::int8_t>()[i] : array.data<std::uint8_t>()[i];
  }

  const Table& table_;
  Array data_, zeros_;
};

Status gather_block_quantized(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  const Array data = ctx.in(0);
  const Array scales = ctx.in(2);
  OF_ASSIGN(const Table table, read_table(ctx, data));
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("gather_axis", std::int64_t{0}), data.rank()));
  OF_ASSIGN(std::vector<std::int64_t> indices, to_int64s(ctx.in(1)));
  const AxisView gathered = axis_view(table.dims, axis);
  for (std::int64_t& index : indices) {
    if (index < -gathered.dim || index >= gathered.dim) {
      return ctx.invalid(fmt::format("index {} is out of range for {} rows", index, gathered.dim));
    }
    if (index < 0) index += gathered.dim;
  }
  Dims dims(table.dims.begin(), table.dims.begin() + static_cast<std::ptrdiff_t>(axis));
  dims.insert(dims.end(), ctx.in(1).dims().begin(), ctx.in(1).dims().end());
  dims.insert(dims.end(), table.dims.begin() + static_cast<std::ptrdiff_t>(axis) + 1, table.dims.end());
  Array& out = ctx.out(0, scales.dtype(), dims);
  const Decoder decoder(ctx, table);
  const auto count = static_cast<std::int64_t>(indices.size());
  const bool done = visit_float(scales.storage(), [&]<typename T>(Tag<T>) {
    T* to = out.mutable_data<T>();
    const auto grain = std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, gathered.inner));
    parallel_for(gathered.outer * count, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t slice = begin; slice < end; ++slice) {
        const std::int64_t from = slice / count * gathered.dim + indices[static_cast<std::size_t>(slice % count)];
        for (std::int64_t i = 0; i < gathered.inner; ++i) {
          std::int64_t scale = 0;
          const double shifted = decoder.at(from * gathered.inner + i, scale);
          to[slice * gathered.inner + i] = static_cast<T>(shifted * static_cast<double>(scales.data<T>()[scale]));
        }
      }
    });
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows gather_block_quantized_kernels() {
  static const KernelRow kRows[] = {{"GatherBlockQuantized", 1, gather_block_quantized, "com.microsoft"}};
  return kRows;
}

}  // namespace onnxfold
