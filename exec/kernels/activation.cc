#include "exec/kernels/activation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>

namespace onnxfold {
namespace {

using Kind = Activation::Kind;

struct Row {
  std::string_view name;
  Kind kind;
  float alpha, beta;
};

constexpr Row kRows[] = {
    {"", Kind::kNone, 0, 0},
    {"affine", Kind::kAffine, 1, 0},
    {"elu", Kind::kElu, 1, 0},
    {"hardsigmoid", Kind::kHardSigmoid, 0.2F, 0.5F},
    {"leakyrelu", Kind::kLeakyRelu, 0.01F, 0},
    {"relu", Kind::kRelu, 0, 0},
    {"scaledtanh", Kind::kScaledTanh, 1, 1},
    {"sigmoid", Kind::kSigmoid, 0, 0},
    {"softplus", Kind::kSoftplus, 0, 0},
    {"softsign", Kind::kSoftsign, 0, 0},
    {"tanh", Kind::kTanh, 0, 0},
    {"thresholdedrelu", Kind::kThresholdedRelu, 1, 0},
    {"clip", Kind::kClip, -3.402823466e38F, 3.402823466e38F},
};

template <typename T, typename F>
void each(T* values, std::int64_t count, F f) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = f(values[i]);
}

template <typename T>
void apply(const Activation& activation, T* values, std::int64_t n) {
  const T a = static_cast<T>(activation.alpha), b = static_cast<T>(activation.beta);
  switch (activation.kind) {
    case Kind::kNone:
      return;
    case Kind::kAffine:
      return each(values, n, [=](T x) { return a * x + b; });
    case Kind::kElu:
      return each(values, n, [=](T x) { return x >= 0 ? x : a * std::expm1(x); });
    case Kind::kHardSigmoid:
      return each(values, n, [=](T x) { return std::clamp(a * x + b, T{0}, T{1}); });
    case Kind::kLeakyRelu:
      return each(values, n, [=](T x) { return x >= 0 ? x : a * x; });
    case Kind::kRelu:
      return each(values, n, [](T x) { return x > 0 ? x : T{0}; });
    case Kind::kScaledTanh:
      return each(values, n, [=](T x) { return a * std::tanh(b * x); });
    case Kind::kSigmoid:
      return each(values, n, [](T x) { return T{1} / (T{1} + std::exp(-x)); });
    case Kind::kSoftplus:
      return each(values, n, [](T x) { return std::max(x, T{0}) + std::log1p(std::exp(-std::abs(x))); });
    case Kind::kSoftsign:
      return each(values, n, [](T x) { return x / (T{1} + std::abs(x)); });
    case Kind::kTanh:
      return each(values, n, [](T x) { return std::tanh(x); });
    case Kind::kThresholdedRelu:
      return each(values, n, [=](T x) { return x > a ? x : T{0}; });
    case Kind::kClip:
      return each(values, n, [=](T x) { return std::min(std::max(x, a), b); });
  }
}

}  // namespace

Result<Activation> find_activation(const KernelContext& ctx, std::string_view name, std::optional<float> alpha,
                                   std::optional<float> beta) {
  std::string lower(name);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const Row& row : kRows) {
    if (row.name == lower) return Activation{row.kind, alpha.value_or(row.alpha), beta.value_or(row.beta)};
  }
  return ctx.unsupported(fmt::format("activation function \"{}\" is unknown", name));
}

void apply_activation(const Activation& activation, float* values, std::int64_t count) {
  apply(activation, values, count);
}
void apply_activation(const Activation& activation, double* values, std::int64_t count) {
  apply(activation, values, count);
}

}  // namespace onnxfold
