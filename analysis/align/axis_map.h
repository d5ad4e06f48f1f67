// Maps of neurons applied to axes of weights.
#pragma once

#include <map>
#include <optional>
#include <utility>

#include "analysis/algebra/matrix.h"
#include "analysis/structure/axis_groups.h"

namespace onnxfold {

// A weight in double.
struct Weight {
  Dims dims;
  std::vector<double> data;
};
// Errors: those of reading; invalid_argument for NaN and infinity.
Result<Weight> weight_of(const Value& constant);

// Of a matrix that permutes: the row of every column's one.
std::optional<std::vector<std::int64_t>> permutation_of(const Matrix& map);
// new[.., j, ..] = sum_i map[i, j] old[.., i, ..] along `axis`.
Weight mapped(const Weight& weight, int axis, const Matrix& map);
// cross[i, j] = sum over all other indices of a[.., i, ..] b[.., j, ..].
Matrix cross_gram(const Weight& a, const Weight& b, int axis);

// Which map acts on which axis of which constant.
using AxisMaps = std::map<std::pair<const Value*, int>, Matrix>;

}  // namespace onnxfold
