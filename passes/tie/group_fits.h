// Fits of many groups side by side, as many at one time as there is room for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "analysis/compare/damage.h"
#include "exec/parallel.h"
#include "passes/tie/deferred_tie.h"

namespace onnxfold {

// Bytes that fits running at one time may take, as far as that is in a pass's hands.
inline constexpr std::int64_t kRoomOfFits = 256 << 20;

// fn(i) for groups [begin, end), on all threads. Errors: the first one by index.
template <typename T, typename F>
Result<std::vector<T>> for_groups(std::size_t begin, std::size_t end, F fn) {
  std::vector<Result<T>> results(end - begin, Result<T>(T()));
  parallel_for(static_cast<std::int64_t>(end - begin), 1, [&](std::int64_t first, std::int64_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) results[i] = fn(begin + i);
  });
  std::vector<T> values;
  for (Result<T>& result : results) {
    OF_ASSIGN(T value, std::move(result));
    values.push_back(std::move(value));
  }
  return values;
}

// The same for all groups, no more at one time than there is room for.
template <typename T, typename F>
Result<std::vector<T>> for_groups_in_room(const std::vector<TieGroup>& groups, F fn) {
  std::int64_t largest = 1;
  for (const TieGroup& group : groups) largest = std::max(largest, fit_bytes(group.weights));
  const auto at_once = static_cast<std::size_t>(std::max<std::int64_t>(1, kRoomOfFits / largest));
  std::vector<T> all;
  for (std::size_t begin = 0; begin < groups.size(); begin += at_once) {
    OF_ASSIGN(std::vector<T> some, for_groups<T>(begin, std::min(begin + at_once, groups.size()), fn));
    std::move(some.begin(), some.end(), std::back_inserter(all));
  }
  return all;
}

// One for each group, at its rank. Errors: those of fit_group.
Result<std::vector<SharedFit>> fit_groups(const std::vector<TieGroup>& groups, const InputStatistics& statistics,
                                          const TieOptions& options, const std::vector<std::int64_t>& ranks);

// What a model whose groups are tied so does worse. Errors: those of running it.
Result<double> damage_of(const Model& model, const std::vector<TieGroup>& groups, const std::vector<SharedFit>& fits,
                         const DamageMeter& meter);

}  // namespace onnxfold
