#include "ir/intended_number.h"

#include <array>
#include <cmath>
#include <numbers>

#include "ir/numeric.h"

namespace onnxfold {
namespace {

constexpr double kLargestRadicand = 4096;

float rounded(double number, DType type) {
  return type == DType::kFloat16 ? half_to_float(double_to_half(number)) : static_cast<float>(number);
}

// The root of a whole number that rounds to `value`, or `value`.
double root_near(float value, int square_roots, DType type) {
  const double wide = static_cast<double>(value);
  double power = wide * wide;
  if (square_roots == 2) power *= power;
  const bool reciprocal = power < 1;
  const double radicand = std::round(reciprocal ? 1 / power : power);
  if (!(radicand >= 1 && radicand <= kLargestRadicand)) return wide;
  double root = std::sqrt(radicand);
  if (square_roots == 2) root = std::sqrt(root);
  if (reciprocal) root = 1 / root;
  return rounded(root, type) == value ? root : wide;
}

}  // namespace

double intended_number(float value, DType rounded_to) {
  if (value < 0) return -intended_number(-value, rounded_to);
  const double root_two_over_pi = std::sqrt(2 / std::numbers::pi);
  for (const double number : std::array{root_two_over_pi, 0.044715, 0.044715 * root_two_over_pi, 1.0 / 6}) {
    if (rounded(number, rounded_to) == value) return number;
  }
  const double root = root_near(value, 1, rounded_to);
  return root != static_cast<double>(value) ? root : root_near(value, 2, rounded_to);
}

}  // namespace onnxfold
