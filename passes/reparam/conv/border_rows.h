// Rows of a map that ScatterND overwrites, and values that depend on nothing but the channel.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "analysis/structure/shape_arithmetic.h"
#include "ir/graph.h"

namespace onnxfold {

// Positions along one axis: from the beginning (0, 1, ..) or from the end (-1, -2, ..), the length need not be known.
class BorderRows {
 public:
  bool empty() const { return rows_.empty(); }
  void add(const std::set<std::int64_t>& rows) { rows_.insert(rows.begin(), rows.end()); }
  // Takes positions away at both ends; what was written there is forgotten.
  void shrink(std::int64_t before, std::int64_t after);
  // Are they exactly the first `before` and the last `after`? `length` counts where positions from the beginning
  // stand for the last ones.
  bool are(std::int64_t before, std::int64_t after, std::optional<std::int64_t> length) const;

 private:
  std::set<std::int64_t> rows_;
};

struct WrittenRows {
  std::size_t axis = 0;         // of [N, C, ...]
  std::set<std::int64_t> rows;  // whole ones
  bool elementwise = false;     // element by element: see scattered_numbers
};

// What a ScatterND without reduction overwrites: rows by number along the first axis of its data, or all elements of
// rows one by one. `layout`: which axis of [N, C, ...] lies at each place of the data. Nullopt where that is not known
// or not made of whole rows of one axis.
std::optional<WrittenRows> written_rows(const Node& scatter, const std::vector<std::size_t>& layout,
                                        ShapeArithmetic& shapes);
// The number that such a ScatterND, element by element with constant indices and updates, writes to each channel.
std::optional<std::vector<double>> scattered_numbers(const Node& scatter, const std::vector<std::size_t>& layout,
                                                     std::int64_t channels);

// The numbers of a value that depend on the channel alone: a constant, widened by Expand or moved by Transpose.
std::optional<std::vector<double>> channel_numbers(const Value* value, std::vector<std::size_t> layout,
                                                   std::int64_t channels);

}  // namespace onnxfold
