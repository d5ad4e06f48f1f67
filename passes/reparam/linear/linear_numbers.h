// Linears (analysis/structure/linear.h) as numbers in double, and nodes for such numbers.
//
// Matrices are functions: a large weight is made when its bytes are asked for, so that models larger than memory pass
// through. Everything is summed in double, in a fixed order, and rounded once to the element type.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "analysis/structure/linear.h"
#include "ir/graph.h"
#include "ir/result.h"

namespace onnxfold {

// A pure function: the same [in, out] matrix at every call, from any thread.
using MatrixFn = std::function<Result<Matrix>()>;
using Numbers = std::vector<double>;

// y = x W + b over the last axis of x.
struct LinearNumbers {
  std::int64_t in = 0, out = 0;
  DType dtype = DType::kUndefined;
  MatrixFn weight;
  std::optional<Numbers> bias;  // `out` numbers

  std::int64_t work() const { return in * out; }  // multiply-adds per row
};

// Errors: those of loading the bias.
Result<LinearNumbers> linear_numbers(const Linear& linear);

// W[i, j] * rows[i]; W[i, j] * columns[j].
MatrixFn scaled_rows(MatrixFn matrix, Numbers rows);
MatrixFn scaled_columns(MatrixFn matrix, Numbers columns);
MatrixFn lazy_identity(std::int64_t size);
MatrixFn product(MatrixFn left, MatrixFn right);
// REQUIRES: at least one, all of one size.
MatrixFn sum(std::vector<MatrixFn> parts);
// Side by side. REQUIRES: at least one, as many rows each.
MatrixFn beside(std::vector<MatrixFn> parts);

// A stretch of rows or columns.
struct Stretch {
  std::int64_t begin = 0, end = 0;
};
MatrixFn rows_of(MatrixFn matrix, std::vector<Stretch> stretches);
MatrixFn columns_of(MatrixFn matrix, std::vector<Stretch> stretches);
Numbers elements_of(const Numbers& numbers, const std::vector<Stretch>& stretches);

// v M for a row vector v of M.rows numbers.
Result<Numbers> row_times(const Numbers& vector, const MatrixFn& matrix);

// The elements of a constant that broadcasts along the last axis of a value of rank `rank` (nullopt: not known) only:
// `width` numbers, one number repeated where the constant holds one. Nullopt when it is no floating constant, varies
// along another axis or would widen the value.
std::optional<Numbers> last_axis_numbers(const Value* value, std::int64_t width, std::optional<int> rank);

// Bytes that stay in the file when `linear` gets another weight, because something else reads the one it has.
std::int64_t shared_bytes(const Linear& linear);

// Are all numbers finite after rounding to their type? Looks into weights of float16 only, where it is in doubt.
Result<bool> representable(const LinearNumbers& numbers);

// [in, out], made when asked for if it is large; `name` is for its errors.
Result<Tensor> weight_tensor(const LinearNumbers& numbers, const std::string& name);

// Names that the new initializers and nodes ask for.
struct LinearNames {
  std::string node, weight, bias;
};
LinearNames names_of(const Linear& linear);

// Inserts MatMul and Add, or one Gemm (REQUIRES then: the input is a matrix), and returns the result.
Result<Value*> insert_linear(Graph& graph, const LinearNumbers& numbers, Value& input, bool gemm,
                             const OutputSpec& output, const LinearNames& names, const Node* before);
// Puts `numbers` of `input` in the place of `old`, in its spelling and under its names.
Result<Value*> replace_linear(Graph& graph, const Linear& old, const LinearNumbers& numbers, Value& input);

}  // namespace onnxfold
