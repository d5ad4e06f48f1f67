#include "ir/intended_number.h"

#include <array>
#include <cmath>
#include <numbers>

namespace onnxfold {
namespace {

constexpr double kLargestRadicand = 4096;

// The root of a whole number that rounds to `value`, or `value`.
double root_near(float value, int square_roots) {
  const double wide = static_cast<double>(value);
  double power = wide * wide;
  if (square_roots == 2) power *= power;
  const bool reciprocal = power < 1;
  const double radicand = std::round(reciprocal ? 1 / power : power);
  if (!(radicand >= 1 && radicand <= kLargestRadicand)) return wide;
  double root = std::sqrt(radicand);
  if (square_roots == 2) root = std::sqrt(root);
  if (reciprocal) root = 1 / root;
  return static_cast<float>(root) == value ? root : wide;
}

}  // namespace

double intended_number(float value) {
  if (value < 0) return -intended_number(-value);
  const double root_two_over_pi = std::sqrt(2 / std::numbers::pi);
  for (const double number : std::array{root_two_over_pi, 0.044715, 0.044715 * root_two_over_pi, 1.0 / 6}) {
    if (static_cast<float>(number) == value) return number;
  }
  const double root = root_near(value, 1);
  return root != static_cast<double>(value) ? root : root_near(value, 2);
}

}  // namespace onnxfold
