#include "passes/reparam/conv/conv_kernel.h"

#include <algorithm>
#include <numeric>

namespace onnxfold {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

std::int64_t outs_per_group(const ConvShape& shape) { return shape.out / shape.groups; }
std::int64_t ins_per_group(const ConvShape& shape) { return shape.in / shape.groups; }

// For every tap of `part` (row-major), its number in `whole`.
std::vector<std::int64_t> tap_numbers(const ConvGeometry& whole, const ConvGeometry& part) {
  std::vector<std::int64_t> numbers{0};
  for (std::size_t axis = 0; axis < part.axes.size(); ++axis) {
    std::vector<std::int64_t> next;
    for (const std::int64_t outer : numbers) {
      for (std::int64_t i = 0; i < part.axes[axis].size; ++i) {
        next.push_back(outer * whole.axes[axis].size + tap_in(whole.axes[axis], part.axes[axis], i));
      }
    }
    numbers = std::move(next);
  }
  return numbers;
}

// For every pair of taps (first, second), row-major, its number in the chain of both.
std::vector<std::int64_t> chained_tap_numbers(const ConvGeometry& chain, const ConvGeometry& first,
                                              const ConvGeometry& second) {
  std::vector<std::int64_t> result;
  const std::int64_t count = first.taps();
  for (std::int64_t pair = 0; pair < count * second.taps(); ++pair) {
    std::int64_t i = pair / second.taps(), j = pair % second.taps(), number = 0, factor = 1;
    for (std::size_t axis = chain.axes.size(); axis-- > 0;) {
      const ConvAxis& a = first.axes[axis];
      const ConvAxis& b = second.axes[axis];
      const std::int64_t offset = (i % a.size) * a.dilation + (j % b.size) * a.stride * b.dilation;
      number += factor * (offset / chain.axes[axis].dilation);
      factor *= chain.axes[axis].size;
      i /= a.size;
      j /= b.size;
    }
    result.push_back(number);
  }
  return result;
}

}  // namespace

ConvShape identity_shape(std::int64_t channels, const ConvGeometry& like) {
  ConvShape shape{{like.transposed, std::vector<ConvAxis>(like.axes.size())}, channels, channels, channels};
  return shape;
}

ConvKernel identity_kernel(const ConvShape& shape) {
  return {shape, std::vector<double>(at(shape.out), 1.0), std::vector<double>(at(shape.out), 0.0)};
}

std::optional<ConvShape> joint_shape(const ConvShape& a, const ConvShape& b, const Lengths& lengths) {
  if (a.in != b.in || a.out != b.out) return std::nullopt;
  const auto geometry = joint_geometry(a.geometry, b.geometry, lengths);
  if (!geometry) return std::nullopt;
  return ConvShape{*geometry, std::gcd(a.groups, b.groups), a.in, a.out};
}

std::optional<ConvShape> chained_shape(const ConvShape& first, const ConvShape& second, bool zero_outside) {
  if (first.out != second.in) return std::nullopt;
  const auto geometry = chained_geometry(first.geometry, second.geometry, zero_outside);
  if (!geometry) return std::nullopt;
  return ConvShape{*geometry, std::gcd(first.groups, second.groups), first.in, second.out};
}

ConvKernel zero_kernel(const ConvShape& shape) {
  return {shape, std::vector<double>(at(shape.work()), 0.0), std::vector<double>(at(shape.out), 0.0)};
}

void add_kernel(ConvKernel& whole, const ConvKernel& part, const std::vector<double>& scale) {
  const std::vector<std::int64_t> taps = tap_numbers(whole.shape.geometry, part.shape.geometry);
  const std::int64_t ins = ins_per_group(part.shape), wide_ins = ins_per_group(whole.shape);
  const std::int64_t wide_taps = whole.shape.geometry.taps();
  const auto count = static_cast<std::int64_t>(taps.size());
  for (std::int64_t o = 0; o < part.shape.out; ++o) {
    // First input channel of this output's group, counted inside the wider group.
    const std::int64_t offset = o / outs_per_group(part.shape) * ins - o / outs_per_group(whole.shape) * wide_ins;
    for (std::int64_t i = 0; i < ins; ++i) {
      double* to = whole.weight.data() + (o * wide_ins + offset + i) * wide_taps;
      const double* from = part.weight.data() + (o * ins + i) * count;
      for (std::int64_t t = 0; t < count; ++t) to[taps[at(t)]] += scale[at(o)] * from[t];
    }
    whole.bias[at(o)] += scale[at(o)] * part.bias[at(o)];
  }
}

ConvKernel chained_kernel(const ConvShape& shape, const ConvKernel& first, const ConvKernel& second) {
  ConvKernel result = zero_kernel(shape);
  const std::vector<std::int64_t> numbers =
      chained_tap_numbers(shape.geometry, first.shape.geometry, second.shape.geometry);
  const std::int64_t ins = ins_per_group(shape), taps = shape.geometry.taps();
  const std::int64_t ins1 = ins_per_group(first.shape), taps1 = first.shape.geometry.taps();
  const std::int64_t ins2 = ins_per_group(second.shape), taps2 = second.shape.geometry.taps();
  for (std::int64_t o = 0; o < shape.out; ++o) {
    result.bias[at(o)] = second.bias[at(o)];
    for (std::int64_t m = 0; m < ins2; ++m) {
      const std::int64_t middle = o / outs_per_group(second.shape) * ins2 + m;
      const std::int64_t input = middle / outs_per_group(first.shape) * ins1 - o / outs_per_group(shape) * ins;
      const double* w2 = second.weight.data() + (o * ins2 + m) * taps2;
      for (std::int64_t j = 0; j < taps2; ++j) result.bias[at(o)] += w2[j] * first.bias[at(middle)];
      for (std::int64_t i = 0; i < ins1; ++i) {
        const double* w1 = first.weight.data() + (middle * ins1 + i) * taps1;
        double* to = result.weight.data() + (o * ins + input + i) * taps;
        for (std::int64_t pair = 0; pair < taps1 * taps2; ++pair) {
          to[numbers[at(pair)]] += w1[pair / taps2] * w2[pair % taps2];
        }
      }
    }
  }
  return result;
}

void scale_inputs(ConvKernel& kernel, const std::vector<double>& scale, const std::vector<double>& shift) {
  const std::int64_t ins = ins_per_group(kernel.shape), taps = kernel.shape.geometry.taps();
  for (std::int64_t o = 0; o < kernel.shape.out; ++o) {
    for (std::int64_t i = 0; i < ins; ++i) {
      const std::size_t channel = at(o / outs_per_group(kernel.shape) * ins + i);
      double* row = kernel.weight.data() + (o * ins + i) * taps;
      for (std::int64_t t = 0; t < taps; ++t) {
        kernel.bias[at(o)] += row[t] * shift[channel];
        row[t] *= scale[channel];
      }
    }
  }
}

ConvKernel stacked_kernel(const ConvKernel& a, const ConvKernel& b) {
  ConvKernel result = a;
  result.shape.out += b.shape.out;
  result.weight.insert(result.weight.end(), b.weight.begin(), b.weight.end());
  result.bias.insert(result.bias.end(), b.bias.begin(), b.bias.end());
  return result;
}

bool reads_padding(const ConvGeometry& geometry) {
  return geometry.transposed || std::any_of(geometry.axes.begin(), geometry.axes.end(),
                                            [](const ConvAxis& axis) { return axis.begin > 0 || axis.end > 0; });
}

}  // namespace onnxfold
