#include "passes/quantize/rounded_result.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLargestMiss = 1.0 / 32;  // of the shift, in steps
constexpr double kWidest = 1.15;           // of a step made wider for the shift
constexpr double kSlack = 1e-5;            // float32 scales

struct Affine {
  double scale = 1, shift = 0;
};

// x op number, or number op x where that is the same.
std::optional<Affine> affine_of(const Node& node, const Value& x) {
  const bool sum = node.is("Add") || node.is("Sub"), product = node.is("Mul") || node.is("Div");
  if ((!sum && !product) || node.inputs().size() != 2) return {};
  const bool swapped = node.input(1) == &x;
  if (swapped && (node.is("Sub") || node.is("Div"))) return {};
  const Value* other = node.input(swapped ? 0 : 1);
  const auto number = scalar_constant(other);
  const auto rank = x.rank();
  if (!number || !std::isfinite(*number) || !rank || other->rank().value_or(*rank + 1) > *rank) return {};
  if (sum) return Affine{1, node.is("Sub") ? -*number : *number};
  if (!(*number > 0)) return {};
  const double scale = node.is("Div") ? 1 / *number : *number;
  if (!std::isfinite(scale) || !(scale > 0)) return {};
  return Affine{scale, 0};
}

// `node` behind what is taken in already. False: it stays.
bool take_in(RoundedResult& result, Node& node) {
  if (const auto bounds = clip_bounds(node); bounds && node.input(0) == result.end) {
    ClipRange clip{(bounds->low - result.shift) / result.scale, (bounds->high - result.shift) / result.scale};
    if (result.clip) clip = {std::max(clip.low, result.clip->low), std::min(clip.high, result.clip->high)};
    if (clip.low > 0 || clip.high <= 0) return false;
    result.clip = clip;
  } else if (const auto affine = affine_of(node, *result.end)) {
    result.scale *= affine->scale;
    result.shift = result.shift * affine->scale + affine->shift;
  } else {
    return false;
  }
  result.end = node.output();
  result.nodes.push_back(&node);
  return true;
}

bool ends_before_clip(const RoundedResult& result) {
  const Node* next = sole_consumer(result.end);
  return next != nullptr && (next->is("Relu") || next->is("Clip"));
}

// Codes 0 to 255 of `end` that start at `zero`, where the value is not clipped.
bool inside(const RoundedResult& result, double step, double zero) {
  if (!result.clip) return true;
  const double low = result.scale * result.clip->low + result.shift;
  const double high = result.scale * result.clip->high + result.shift;
  return -zero * step >= low - kSlack * step * 255 && (255 - zero) * step <= high + kSlack * step * 255;
}

}  // namespace

std::optional<ClipRange> clip_bounds(const Node& node) {
  if (node.is("Relu")) return ClipRange{0, kInfinity};
  if (!node.is("Clip") || node.attribute("min") != nullptr || node.attribute("max") != nullptr) return {};
  ClipRange range{-kInfinity, kInfinity};
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
    if (node.input(i) == nullptr) continue;
    const auto bound = scalar_constant(node.input(i));
    if (!bound) return {};
    (i == 1 ? range.low : range.high) = *bound;
  }
  return range;
}

std::vector<RoundedResult> rounded_results(Value& value) {
  RoundedResult result;
  result.end = &value;
  std::vector<RoundedResult> made{result};
  for (Node* next = sole_consumer(&value); next != nullptr; next = sole_consumer(result.end)) {
    if (next->output()->dtype() != DType::kFloat32 || !take_in(result, *next)) break;
    if (!result.affine() || !ends_before_clip(result)) made.push_back(result);
  }
  std::reverse(made.begin(), made.end());
  return made;
}

std::optional<RoundedGrids> rounded_grids(const RoundedResult& result, const Uint8Grid& seen) {
  if (!result.affine()) return RoundedGrids{seen, seen};
  const double shift = result.shift, before = static_cast<double>(seen.scale);
  // The value's 0 has a code too.
  const double low = std::min(-seen.zero * before, shift), high = std::max((255 - seen.zero) * before, shift);
  const double least = std::max((high - low) / 255, 1e-30);
  const double ratio = std::abs(shift) / least;
  double step = least, steps = std::round(ratio);
  if (std::abs(ratio - steps) > kLargestMiss) {
    steps = std::floor(ratio);
    if (steps < 1 || ratio / steps > kWidest) return {};
    step = std::abs(shift) / steps;
  }
  for (const double zero : std::array<double, 2>{std::round(-low / step), std::floor(-low / step)}) {
    const double written = zero + std::copysign(steps, shift);
    if (zero < 0 || zero > 255 || written < 0 || written > 255 || !inside(result, step, zero)) continue;
    return RoundedGrids{{static_cast<float>(step / result.scale), static_cast<std::uint8_t>(written)},
                        {static_cast<float>(step), static_cast<std::uint8_t>(zero)}};
  }
  return {};
}

}  // namespace onnxfold
