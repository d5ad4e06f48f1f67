// What operators do to FixedArrays. Internal to exec/integer.
#pragma once

#include <optional>
#include <vector>

#include "exec/integer/fixed_arithmetic.h"
#include "ir/graph.h"

namespace onnxfold {

// What flows along an edge: numbers as integers, or anything else as the executor holds it.
struct Cell {
  std::shared_ptr<const FixedArray> fixed;  // float32 arrays
  Datum datum;
  bool present() const { return fixed != nullptr || datum.present(); }
};

// Output 0 of a node with one result, when integers can make it; none: floats must. Reads `cells` by input position.
Result<std::optional<Cell>> integer_result(const Node& node, const std::vector<Cell>& cells, Peak& peak);

// Every float32 array is one of integers; none for NaN and for what is no float32 array.
std::shared_ptr<const FixedArray> fixed_of(const Cell& cell);
// As floats.
Datum datum_of(const Cell& cell);

// Does the operator put elements of its inputs to other places, whatever they are? `data`: how many of its first inputs
// are elements rather than places (0: all).
bool moves_elements(const Node& node, std::size_t& first, std::size_t& count);

}  // namespace onnxfold
