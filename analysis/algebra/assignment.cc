#include "analysis/algebra/assignment.h"

#include <limits>

namespace onnxfold {

std::vector<std::int64_t> best_assignment(const Matrix& value) {
  const auto n = static_cast<std::size_t>(value.rows);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  // Costs are negated values. Column n is the virtual start of every path.
  std::vector<double> row_dual(n, 0), column_dual(n + 1, 0);
  std::vector<std::size_t> row_of(n + 1, kNone), before(n + 1, n);
  std::vector<double> distance(n + 1);
  std::vector<char> done(n + 1);
  for (std::size_t row = 0; row < n; ++row) {
    row_of[n] = row;
    std::size_t column = n;
    std::fill(distance.begin(), distance.end(), kInfinity);
    std::fill(done.begin(), done.end(), 0);
    while (row_of[column] != kNone) {
      done[column] = 1;
      const std::size_t from = row_of[column];
      const double* values = value.data.data() + from * n;
      double shortest = kInfinity;
      std::size_t next = n;
      for (std::size_t j = 0; j < n; ++j) {
        if (done[j] != 0) continue;
        const double reduced = -values[j] - row_dual[from] - column_dual[j];
        if (reduced < distance[j]) {
          distance[j] = reduced;
          before[j] = column;
        }
        if (distance[j] < shortest) {
          shortest = distance[j];
          next = j;
        }
      }
      for (std::size_t j = 0; j <= n; ++j) {
        if (done[j] != 0) {
          row_dual[row_of[j]] += shortest;
          column_dual[j] -= shortest;
        } else {
          distance[j] -= shortest;
        }
      }
      column = next;
    }
    while (column != n) {
      row_of[column] = row_of[before[column]];
      column = before[column];
    }
  }
  std::vector<std::int64_t> column_of(n);
  for (std::size_t j = 0; j < n; ++j) column_of[row_of[j]] = static_cast<std::int64_t>(j);
  return column_of;
}

}  // namespace onnxfold
