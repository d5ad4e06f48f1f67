// A transformer with random weights, and copies of it in other bases and widths.
#pragma once

#include <memory>
#include <string>

#include "analysis/algebra/matrix.h"
#include "ir/model.h"

namespace onnxfold::test {

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t seed);

// Two pre-norm blocks (width 12, 3 heads of 4, 20 hidden units) behind an embedding; norms have no gains, as
// fold-norm-affine leaves them.
std::unique_ptr<Model> transformer();
// The same function with the stream permuted (or rotated), hidden units permuted, heads permuted and permuted (or
// rotated) inside.
std::unique_ptr<Model> disguised(const Model& model, bool rotate);
// The same function with every neuron of stream, heads and hidden layers twice, and half of what each sends.
std::unique_ptr<Model> widened(const Model& model);

void set_weight(Model& model, const std::string& name, const Matrix& values);
// Over all floating initializers of `b`, by name.
double largest_difference(const Model& a, const Model& b);

}  // namespace onnxfold::test
