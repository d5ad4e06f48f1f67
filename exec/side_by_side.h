// Independent pieces of work that may fail, side by side.
#pragma once

#include <vector>

#include "exec/executor.h"
#include "exec/parallel.h"
#include "ir/result.h"

namespace onnxfold {

// Calls fn(i) for every i < count, on several threads where there are at least as many pieces as threads (else one
// after the other, each with all threads). Every call must write to places of its own: results are then the same at any
// thread count. Errors: that of the lowest i that failed.
template <typename F>
Status side_by_side(std::size_t count, F&& fn) {
  if (static_cast<std::int64_t>(count) < threads()) {
    for (std::size_t i = 0; i < count; ++i) OF_TRY(fn(i));
    return {};
  }
  std::vector<Status> done(count);
  parallel_for(static_cast<std::int64_t>(count), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) done[static_cast<std::size_t>(i)] = fn(static_cast<std::size_t>(i));
  });
  for (Status& each : done) OF_TRY(std::move(each));
  return {};
}

}  // namespace onnxfold
