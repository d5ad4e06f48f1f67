// BatchNormalization, InstanceNormalization, GroupNormalization, LpNormalization, LRN.
#include <fmt/format.h>

#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/normalize_rows.h"

namespace onnxfold {
namespace {

// X as [batch, channels, inner].
struct Channels {
  std::int64_t batch, channels, inner;
};

struct Moments {
  std::vector<double> mean, variance;
};

template <typename T>
Moments batch_moments(const Channels& view, const T* x) {
  const auto count = static_cast<double>(view.batch * view.inner);
  Moments moments{std::vector<double>(static_cast<std::size_t>(view.channels)),
                  std::vector<double>(static_cast<std::size_t>(view.channels))};
  for (std::int64_t c = 0; c < view.channels; ++c) {
    double sum = 0, squares = 0;
    for (std::int64_t n = 0; n < view.batch; ++n) sum += row_sum(x + (n * view.channels + c) * view.inner, view.inner);
    for (std::int64_t n = 0; n < view.batch; ++n)
      squares += row_squares(x + (n * view.channels + c) * view.inner, view.inner, sum / count);
    moments.mean[static_cast<std::size_t>(c)] = sum / count;
    moments.variance[static_cast<std::size_t>(c)] = squares / count;
  }
  return moments;
}

// y = x * factor[c] + offset[c].
template <typename T>
void scale_channels(const Channels& view, const T* x, const std::vector<double>& factor,
                    const std::vector<double>& mean, const std::vector<double>& offset, T* y) {
  const std::int64_t grain = std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, view.inner));
  parallel_for(view.batch * view.channels, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto c = static_cast<std::size_t>(i % view.channels);
      const double f = factor[c], m = mean[c], o = offset[c];
      const T* from = x + i * view.inner;
      T* to = y + i * view.inner;
      for (std::int64_t j = 0; j < view.inner; ++j) to[j] = static_cast<T>((static_cast<double>(from[j]) - m) * f + o);
    }
  });
}

Result<std::vector<double>> channel_parameter(const KernelContext& ctx, std::size_t input, std::int64_t channels) {
  OF_ASSIGN(std::vector<double> values, to_doubles(ctx.in(input)));
  if (static_cast<std::int64_t>(values.size()) != channels) {
    return ctx.invalid(fmt::format("input {} has {} values for {} channels", input, values.size(), channels));
  }
  return values;
}

void set_vector(KernelContext& ctx, std::size_t output, const Array& like, const std::vector<double>& values) {
  Array& out = ctx.out(output, like.dtype(), like.dims());
  visit_float(out.storage(), [&]<typename T>(Tag<T>) {
    for (std::size_t i = 0; i < values.size(); ++i) out.mutable_data<T>()[i] = static_cast<T>(values[i]);
  });
}

// Running statistics after one step of training; before opset 14 also the batch's own ("saved").
void set_running(KernelContext& ctx, const Moments& batch, Moments running) {
  const double momentum = ctx.attr("momentum", 0.9F);
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    running.mean[c] = running.mean[c] * momentum + batch.mean[c] * (1 - momentum);
    running.variance[c] = running.variance[c] * momentum + batch.variance[c] * (1 - momentum);
  }
  if (ctx.wants(1)) set_vector(ctx, 1, ctx.in(3), running.mean);
  if (ctx.wants(2)) set_vector(ctx, 2, ctx.in(4), running.variance);
  if (ctx.wants(3)) set_vector(ctx, 3, ctx.in(3), batch.mean);
  if (ctx.wants(4)) set_vector(ctx, 4, ctx.in(4), batch.variance);
}

Status batch_norm(KernelContext& ctx) {
  OF_TRY(ctx.need(5));
  const Array& x = ctx.in(0);
  if (x.rank() < 1) return ctx.invalid("X is a scalar");
  Channels view{x.dim(0), x.rank() > 1 ? x.dim(1) : 1, 1};
  for (int i = 2; i < x.rank(); ++i) view.inner *= x.dim(i);
  if (ctx.opset() < 9 && ctx.attr("spatial", std::int64_t{1}) == 0) view = {view.batch, view.channels * view.inner, 1};
  OF_ASSIGN(const std::vector<double> scale, channel_parameter(ctx, 1, view.channels));
  OF_ASSIGN(const std::vector<double> bias, channel_parameter(ctx, 2, view.channels));
  OF_ASSIGN(std::vector<double> mean, channel_parameter(ctx, 3, view.channels));
  OF_ASSIGN(std::vector<double> variance, channel_parameter(ctx, 4, view.channels));
  const bool training =
      ctx.opset() >= 14 ? ctx.attr("training_mode", std::int64_t{0}) != 0 : ctx.wants(1) || ctx.wants(2);
  const double epsilon = ctx.attr("epsilon", 1e-5F);
  Array& y = ctx.out(0, x.dtype(), x.dims());
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    if (training) {
      Moments moments = batch_moments(view, x.data<T>());
      set_running(ctx, moments, {mean, variance});
      mean = std::move(moments.mean);
      variance = std::move(moments.variance);
    }
    std::vector<double> factor(scale);
    for (std::size_t c = 0; c < factor.size(); ++c) factor[c] /= std::sqrt(variance[c] + epsilon);
    scale_channels(view, x.data<T>(), factor, mean, bias, y.mutable_data<T>());
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

// Groups of channels normalized together; scale and bias per channel, or per group before opset 21.
Status grouped(KernelContext& ctx, std::int64_t groups, bool per_group) {
  const Array& x = ctx.in(0);
  const std::int64_t channels = x.dim(1);
  if (groups < 1 || channels % groups != 0)
    return ctx.invalid(fmt::format("{} channels do not split in {} groups", channels, groups));
  OF_ASSIGN(const std::vector<double> scale, channel_parameter(ctx, 1, per_group ? groups : channels));
  OF_ASSIGN(const std::vector<double> bias, channel_parameter(ctx, 2, per_group ? groups : channels));
  const std::int64_t share = channels / groups, rows = x.dim(0) * groups;
  const std::int64_t width = rows == 0 ? 0 : x.size() / rows, inner = share == 0 ? 0 : width / share;
  const double epsilon = ctx.attr("epsilon", 1e-5F);
  Array& y = ctx.out(0, x.dtype(), x.dims());
  if (x.size() == 0) return {};
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    parallel_for(rows, std::max<std::int64_t>(1, kElementGrain / width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T* from = x.data<T>() + r * width;
        T* to = y.mutable_data<T>() + r * width;
        const double mean = row_sum(from, width) / static_cast<double>(width);
        const double inverse = 1 / std::sqrt(row_squares(from, width, mean) / static_cast<double>(width) + epsilon);
        for (std::int64_t i = 0; i < width; ++i) {
          const auto c = static_cast<std::size_t>(per_group ? r % groups : r % groups * share + i / inner);
          to[i] = static_cast<T>((static_cast<double>(from[i]) - mean) * inverse * scale[c] + bias[c]);
        }
      }
    });
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

Status instance_norm(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  if (ctx.in(0).rank() < 2) return ctx.invalid("the input needs rank 2 or more");
  return grouped(ctx, std::max<std::int64_t>(ctx.in(0).dim(1), 1), false);
}

Status group_norm(KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  if (ctx.in(0).rank() < 2) return ctx.invalid("the input needs rank 2 or more");
  return grouped(ctx, ctx.attr("num_groups", std::int64_t{0}), ctx.opset() < 21);
}

Status lp_norm(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{-1}), x.rank()));
  const std::int64_t p = ctx.attr("p", std::int64_t{2});
  if (p != 1 && p != 2) return ctx.invalid(fmt::format("p is {}, must be 1 or 2", p));
  const AxisView view = axis_view(x.dims(), axis);
  Array& y = ctx.out(0, x.dtype(), x.dims());
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t i = 0; i < view.outer * view.inner; ++i) {
      const std::int64_t start = i / view.inner * view.dim * view.inner + i % view.inner;
      double sum = 0;
      for (std::int64_t j = 0; j < view.dim; ++j) {
        const double value = static_cast<double>(x.data<T>()[start + j * view.inner]);
        sum += p == 1 ? std::abs(value) : value * value;
      }
      const double norm = p == 1 ? sum : std::sqrt(sum);
      for (std::int64_t j = 0; j < view.dim; ++j) {
        const std::int64_t at = start + j * view.inner;
        y.mutable_data<T>()[at] = norm == 0 ? T{0} : static_cast<T>(static_cast<double>(x.data<T>()[at]) / norm);
      }
    }
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

Status lrn(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& x = ctx.in(0);
  const std::int64_t size = ctx.attr("size", std::int64_t{0});
  if (x.rank() < 2 || size < 1) return ctx.invalid("X needs rank 2 or more and size must be positive");
  const double alpha = ctx.attr("alpha", 1e-4F), beta = ctx.attr("beta", 0.75F), bias = ctx.attr("bias", 1.0F);
  const std::int64_t channels = x.dim(1), before = (size - 1) / 2, after = size - 1 - before;
  const std::int64_t planes = x.dim(0) * channels, inner = planes == 0 ? 0 : x.size() / planes;
  Array& y = ctx.out(0, x.dtype(), x.dims());
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    parallel_for(planes, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t c = i % channels, first = std::max<std::int64_t>(0, c - before),
                           last = std::min(channels - 1, c + std::min(after, channels));
        for (std::int64_t j = 0; j < inner; ++j) {
          double sum = 0;
          for (std::int64_t k = first; k <= last; ++k) {
            const double value = static_cast<double>(x.data<T>()[(i - c + k) * inner + j]);
            sum += value * value;
          }
          const double factor = std::pow(bias + alpha / static_cast<double>(size) * sum, -beta);
          y.mutable_data<T>()[i * inner + j] = static_cast<T>(static_cast<double>(x.data<T>()[i * inner + j]) * factor);
        }
      }
    });
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {
    {"BatchNormalization", 1, batch_norm},
    {"InstanceNormalization", 1, instance_norm},
    {"GroupNormalization", 18, group_norm},
    {"LpNormalization", 1, lp_norm},
    {"LRN", 1, lrn},
};

}  // namespace

KernelRows channel_norm_kernels() { return kRows; }

}  // namespace onnxfold
