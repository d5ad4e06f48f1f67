// com.microsoft MatMulNBits: Y = A x dequantized(B)^T (+ bias), weights of 2, 4 or 8 bits in blocks along K.
// accuracy_level allows a runtime to lower the precision of A; here A is never lowered.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/gemm.h"
#include "exec/kernels/kernels.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

struct Packing {
  std::int64_t k = 0, n = 0, block = 0, bits = 0, blocks = 0, blob = 0;
};

Result<Packing> read_packing(const KernelContext& ctx) {
  Packing p;
  p.k = ctx.attr("K", std::int64_t{0});
  p.n = ctx.attr("N", std::int64_t{0});
  p.block = ctx.attr("block_size", std::int64_t{0});
  p.bits = ctx.attr("bits", std::int64_t{4});
  if (p.k <= 0 || p.n <= 0 || p.block < 16 || (p.block & (p.block - 1)) != 0)
    return ctx.invalid("K, N or block_size is out of range");
  if (p.bits != 2 && p.bits != 4 && p.bits != 8) return ctx.unsupported(fmt::format("{} bits", p.bits));
  p.blocks = (p.k + p.block - 1) / p.block;
  p.blob = p.block * p.bits / 8;
  const Array& b = ctx.in(1);
  if (b.storage() != Storage::kUint8 || b.size() != p.n * p.blocks * p.blob) {
    return ctx.invalid(
        fmt::format("B is {} where [{},{},{}] bytes are due", dims_text(b.dims()), p.n, p.blocks, p.blob));
  }
  if (ctx.in(2).size() != p.n * p.blocks) return ctx.invalid("scales do not fit N and K");
  return p;
}

// The zero point of every block as a number, [n, blocks].
Result<std::vector<double>> read_zeros(const KernelContext& ctx, const Packing& p) {
  std::vector<double> zeros(static_cast<std::size_t>(p.n * p.blocks),
                            static_cast<double>(std::int64_t{1} << (p.bits - 1)));
  if (!ctx.has(3)) return zeros;
  const Array& given = ctx.in(3);
  if (given.storage() != Storage::kUint8) {
    if (given.size() != p.n * p.blocks) return ctx.invalid("zero points do not fit N and K");
    return to_doubles(given);
  }
  const std::int64_t row = (p.blocks * p.bits + 7) / 8;
  if (given.size() != p.n * row) return ctx.invalid("packed zero points do not fit N and K");
  const std::uint8_t* bytes = given.data<std::uint8_t>();
  for (std::int64_t n = 0; n < p.n; ++n) {
    for (std::int64_t b = 0; b < p.blocks; ++b) {
      const std::int64_t bit = b * p.bits;
      const unsigned byte = bytes[n * row + bit / 8];
      zeros[static_cast<std::size_t>(n * p.blocks + b)] = (byte >> (bit % 8)) & ((1U << p.bits) - 1);
    }
  }
  return zeros;
}

// Row n of the weight in T: w[n, k] = (code - zero) * scale, the group of k given by g_idx or by its block.
template <typename T>
void decode_row(const Packing& p, const std::uint8_t* codes, const T* scales, const double* zeros,
                const std::int32_t* groups, T* row) {
  const unsigned mask = (1U << p.bits) - 1;
  for (std::int64_t k = 0; k < p.k; ++k) {
    const std::int64_t block = k / p.block;
    const std::int64_t bit = k % p.block * p.bits;
    const unsigned code = (static_cast<unsigned>(codes[block * p.blob + bit / 8]) >> (bit % 8)) & mask;
    const std::int64_t group = groups != nullptr ? groups[k] : block;
    row[k] = static_cast<T>((static_cast<double>(code) - zeros[group]) * static_cast<double>(scales[group]));
  }
}

template <typename T>
Status multiply(KernelContext& ctx, const Packing& p, const std::vector<double>& zeros, const std::int32_t* groups) {
  const Array a = ctx.in(0);
  const Array scales = ctx.in(2);
  if (scales.storage() != StorageOf<T>::value) return ctx.invalid("scales have another type than A");
  std::vector<T> weight(static_cast<std::size_t>(p.n * p.k));
  const std::uint8_t* codes = ctx.in(1).data<std::uint8_t>();
  parallel_for(p.n, std::max<std::int64_t>(1, kElementGrain / p.k), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      decode_row(p, codes + n * p.blocks * p.blob, scales.data<T>() + n * p.blocks, zeros.data() + n * p.blocks, groups,
                 weight.data() + n * p.k);
    }
  });
  Dims dims = a.dims();
  dims.back() = p.n;
  const std::int64_t rows = a.size() / p.k;
  Array& out = ctx.out(0, a.dtype(), dims);
  gemm(rows, p.n, p.k, T{1}, a.data<T>(), p.k, false, weight.data(), p.k, true, T{0}, out.mutable_data<T>(), p.n);
  if (!ctx.has(5)) return {};
  const Array& bias = ctx.in(5);
  if (bias.size() != p.n || bias.storage() != StorageOf<T>::value) return ctx.invalid("the bias does not fit N");
  T* to = out.mutable_data<T>();
  for (std::int64_t i = 0; i < rows * p.n; ++i) to[i] += bias.data<T>()[i % p.n];
  return {};
}

Status matmul_nbits(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  OF_ASSIGN(const Packing p, read_packing(ctx));
  const Array& a = ctx.in(0);
  if (a.rank() < 1 || a.dims().back() != p.k)
    return ctx.invalid(fmt::format("A is {} and K is {}", dims_text(a.dims()), p.k));
  OF_ASSIGN(const std::vector<double> zeros, read_zeros(ctx, p));
  const std::int32_t* groups = nullptr;
  if (ctx.has(4)) {
    const Array& g = ctx.in(4);
    if (g.storage() != Storage::kInt32 || g.size() < p.k) return ctx.invalid("g_idx does not fit K");
    groups = g.data<std::int32_t>();
    if (std::any_of(groups, groups + p.k, [&](std::int32_t i) { return i < 0 || i >= p.blocks; })) {
      return ctx.invalid("g_idx holds a group that does not exist");
    }
  }
  Status status;
  const bool done = visit_float(a.storage(), [&]<typename T>(Tag<T>) { status = multiply<T>(ctx, p, zeros, groups); });
  if (!done) return ctx.unsupported("this element type");
  return status;
}

}  // namespace

KernelRows matmul_nbits_kernels() {
  static const KernelRow kRows[] = {{"MatMulNBits", 1, matmul_nbits, "com.microsoft"}};
  return kRows;
}

}  // namespace onnxfold
