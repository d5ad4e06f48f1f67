// Transport maps as matrices, and the cuts of weights that they act on.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "analysis/algebra/matrix.h"

namespace onnxfold {

// [n0, n1] with columns that sum to 1: aligned neuron j is the mean of neurons i by share. Null: every neuron stays.
using TransportMap = std::shared_ptr<const Matrix>;

// Of a plan [n0, n1] that sums to 1: for what sends the neurons.
TransportMap output_map(const Matrix& plan);
// The same for what reads them: rows sum to 1 (the two differ by n0 / n1).
Matrix input_map(const Matrix& map);
// Neurons that stand `repeats` times side by side are mapped alike: head (g, r) goes where g goes, to the same r.
// Numbers of heads may be 0: then all neurons are one head.
TransportMap repeated_by_head(const TransportMap& map, std::int64_t heads_from, std::int64_t heads_to,
                              std::int64_t repeats);

// `columns` empty: all of them.
Matrix chosen_columns(const Matrix& weight, const std::vector<std::int64_t>& columns);
Matrix column_range(const Matrix& matrix, std::int64_t begin, std::int64_t count);
// `weight` as it is when `rows` are not as many as it has.
Matrix reordered_rows(const Matrix& weight, const std::vector<std::int64_t>& rows);
// REQUIRES as many columns; an empty `whole` becomes `part`.
void append_below(Matrix& whole, const Matrix& part);
// REQUIRES as many rows; an empty `whole` becomes `part`.
void append_right(Matrix& whole, const Matrix& part);
// rows * map; a map that permutes only moves columns, to the same bits.
Matrix mapped_columns(const Matrix& rows, const Matrix& map);

}  // namespace onnxfold
