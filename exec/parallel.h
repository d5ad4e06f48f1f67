// Threads for kernels: parallel_for over a pool of threads of our own.
#pragma once

#include <cstdint>
#include <type_traits>

namespace onnxfold {

namespace internal {
using RangeFn = void (*)(void* context, std::int64_t begin, std::int64_t end);
void parallel_ranges(std::int64_t n, std::int64_t grain, RangeFn run, void* context);
}  // namespace internal

// Calls fn(begin, end) on disjoint ranges that cover [0, n), each of about `grain` indices or more, on up to threads()
// threads. The split depends on the number of threads, so each index must be computed on its own for results to be the
// same at any thread count: never accumulate across indices of a range. Runs in the calling thread when n is small or
// when already inside a parallel_for. Exceptions of fn reach the caller.
template <typename F>
void parallel_for(std::int64_t n, std::int64_t grain, F&& fn) {
  using Fn = std::remove_reference_t<F>;
  internal::parallel_ranges(
      n, grain, [](void* context, std::int64_t begin, std::int64_t end) { (*static_cast<Fn*>(context))(begin, end); },
      const_cast<std::remove_const_t<Fn>*>(&fn));
}

// Elements per range below which a thread costs more than it brings, for work of a few operations per element.
constexpr std::int64_t kElementGrain = 32768;

}  // namespace onnxfold
