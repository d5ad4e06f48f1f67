#include "exec/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "exec/executor.h"

namespace onnxfold {
namespace {

std::atomic<int>& thread_setting() {
  static std::atomic<int> setting{std::max(1, omp_get_max_threads())};
  return setting;
}

}  // namespace

void set_threads(int threads) {
  thread_setting() = std::max(1, threads);
  omp_set_num_threads(std::max(1, threads));
}

int threads() { return thread_setting(); }

namespace internal {

void parallel_ranges(std::int64_t n, std::int64_t grain, RangeFn run, void* context) {
  if (n <= 0) return;
  const std::int64_t useful = n / std::max<std::int64_t>(grain, 1);
  const std::int64_t workers = std::min<std::int64_t>(threads(), useful);
  if (workers <= 1 || omp_in_parallel()) {
    run(context, 0, n);
    return;
  }
  std::exception_ptr failure;  // an exception must not leave an OpenMP region
#pragma omp parallel num_threads(static_cast <int>(workers))
  {
    const std::int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
    const std::int64_t share = n / count, rest = n % count;
    const std::int64_t begin = me * share + std::min(me, rest);
    try {
      run(context, begin, begin + share + (me < rest ? 1 : 0));
    } catch (...) {
#pragma omp critical(onnxfold_parallel_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace internal
}  // namespace onnxfold
