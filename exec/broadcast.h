// Numpy-style broadcasting as few long runs over contiguous memory.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>

#include "exec/array.h"
#include "exec/parallel.h"

namespace onnxfold {

// The common shape of two or more operands; nullopt when they do not broadcast.
std::optional<Dims> broadcast_dims(const Dims& a, const Dims& b);
std::optional<Dims> broadcast_dims(std::initializer_list<const Dims*> operands);
// "[2,3]" for messages.
std::string dims_text(const Dims& dims);
// Elements between neighbours along each axis of a row-major array.
Dims row_major_strides(const Dims& dims);

namespace internal {
// Output dims with neighbouring axes merged where every operand allows it, and each operand's stride per merged axis
// (0 where it is broadcast). The last axis is the inner loop; there is always at least one axis.
struct BroadcastLoops {
  Dims dims;
  std::vector<Dims> strides;  // [operand][axis]
};
BroadcastLoops broadcast_loops(const Dims& out, const Dims* const* operands, std::size_t count);

// A run, with the function behind `context` erased: walking the axes is compiled once per number of operands.
template <std::size_t N>
using RunFn = void (*)(void* context, std::int64_t at, std::int64_t length, const std::array<std::int64_t, N>& offsets,
                       const std::array<std::int64_t, N>& steps);
template <std::size_t N>
void all_runs(const Dims& out, const std::array<const Dims*, N>& operands, RunFn<N> run, void* context);
extern template void all_runs<1>(const Dims&, const std::array<const Dims*, 1>&, RunFn<1>, void*);
extern template void all_runs<2>(const Dims&, const std::array<const Dims*, 2>&, RunFn<2>, void*);
extern template void all_runs<3>(const Dims&, const std::array<const Dims*, 3>&, RunFn<3>, void*);
}  // namespace internal

// Covers the elements of an output of shape `out` with runs along its innermost merged axis:
//   fn(out_offset, length, offsets, steps)
// reads operand k at offsets[k] + i * steps[k] for i in [0, length), where steps[k] is 0 (one value for the whole run)
// or another constant, 1 when contiguous, and writes out[out_offset + i]. Long runs are split among threads; equal
// shapes give a single run per thread. REQUIRES: every operand broadcasts to `out`.
template <std::size_t N, typename F>
void for_each_run(const Dims& out, const std::array<const Dims*, N>& operands, F&& fn) {
  using Fn = std::remove_reference_t<F>;
  internal::all_runs<N>(
      out, operands,
      [](void* context, std::int64_t at, std::int64_t length, const auto& offsets, const auto& steps) {
        (*static_cast<Fn*>(context))(at, length, offsets, steps);
      },
      const_cast<std::remove_const_t<Fn>*>(&fn));
}

// out[i] = op(a[i]) / op(a[i], b[i]) with broadcasting; the loops vectorize for plain arithmetic.
template <typename A, typename O, typename Op>
void map_unary(const A* a, O* out, std::int64_t count, Op op) {
  parallel_for(count, kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) out[i] = op(a[i]);
  });
}

template <typename A, typename B, typename O, typename Op>
void map_binary(const A* a, const Dims& a_dims, const B* b, const Dims& b_dims, O* out, const Dims& out_dims, Op op) {
  for_each_run<2>(out_dims, {&a_dims, &b_dims}, [&](std::int64_t at, std::int64_t n, auto& offsets, auto& steps) {
    const A* x = a + offsets[0];
    const B* y = b + offsets[1];
    O* z = out + at;
    if (steps[0] == 1 && steps[1] == 1) {
      for (std::int64_t i = 0; i < n; ++i) z[i] = op(x[i], y[i]);
    } else if (steps[0] == 1 && steps[1] == 0) {
      const B right = *y;
      for (std::int64_t i = 0; i < n; ++i) z[i] = op(x[i], right);
    } else if (steps[0] == 0 && steps[1] == 1) {
      const A left = *x;
      for (std::int64_t i = 0; i < n; ++i) z[i] = op(left, y[i]);
    } else {
      for (std::int64_t i = 0; i < n; ++i) z[i] = op(x[i * steps[0]], y[i * steps[1]]);
    }
  });
}

}  // namespace onnxfold
