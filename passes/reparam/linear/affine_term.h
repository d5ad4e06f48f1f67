// A value as an affine map of the rows of another one: Linears one after the other, with constant factors and addends
// between them. The branches of low-rank adapters, scaled projections and plain Linears all look like this.
#pragma once

#include <optional>
#include <vector>

#include "passes/reparam/linear/linear_numbers.h"

namespace onnxfold {

// One step: rows of `before` become rows of the next step's `before`. A Linear, or x -> scale * x + shift.
struct AffineStep {
  Value* before = nullptr;
  std::optional<Linear> linear;
  double factor = 1;                    // of all elements
  std::optional<Numbers> scale, shift;  // one number per element of a row
};

struct AffineTerm {
  Value* value = nullptr;         // what the steps make
  std::vector<AffineStep> steps;  // the last one first: what makes `value` comes first
};

// Walks from `value`, whose last axis has `width` elements, upwards through Linears, Mul, Div, Add, Sub and Neg with
// constants along the last axis, Dropout in inference and Identity, as long as nothing else reads the values between.
// `own`: nothing but the caller reads `value` itself; otherwise there is no step.
AffineTerm affine_term(Value& value, std::int64_t width, bool own);

// The first `count` steps as one map.
struct AffineMap {
  Value* input = nullptr;
  LinearNumbers numbers;
  std::int64_t work = 0;     // multiply-adds per row now
  std::int64_t linears = 0;  // Linears among the steps
  std::int64_t nodes = 0;
  std::int64_t shared = 0;  // bytes of weights that would stay (shared_bytes)
};
// `dtype` and `width` are those of the value. Errors: those of loading biases and, where an inner Linear has one, of
// the weights behind it.
Result<AffineMap> affine_map(const AffineTerm& term, std::size_t count, std::int64_t width, DType dtype);
// The same without numbers.
AffineMap outline(const AffineTerm& term, std::size_t count, std::int64_t width);

}  // namespace onnxfold
