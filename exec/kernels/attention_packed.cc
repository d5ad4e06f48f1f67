// Attention of com.microsoft: the projections of query, key and value are part of the operator.
#include <fmt/format.h>

#include <array>
#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/gemm.h"
#include "exec/kernels/attend.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

struct Packed {
  std::int64_t batch, length, in, heads, past;
  std::array<std::int64_t, 3> sizes;  // widths of query, key and value over all heads
  std::int64_t keys() const { return past + length; }
  std::int64_t total() const { return sizes[0] + sizes[1] + sizes[2]; }
};

Result<Packed> read_packed(const KernelContext& ctx) {
  const Array &x = ctx.in(0), &weight = ctx.in(1);
  Packed p{};
  p.heads = ctx.attr("num_heads", std::int64_t{0});
  if (x.rank() != 3 || weight.rank() != 2 || weight.dim(0) != x.dim(2) || p.heads < 1) {
    return ctx.invalid(fmt::format("input {} and weights {} do not fit {} heads", dims_text(x.dims()),
                                   dims_text(weight.dims()), p.heads));
  }
  p.batch = x.dim(0), p.length = x.dim(1), p.in = x.dim(2);
  p.sizes.fill(weight.dim(1) / 3);
  if (const auto given = ctx.node().attr_ints("qkv_hidden_sizes"); given && given->size() == 3) {
    std::copy(given->begin(), given->end(), p.sizes.begin());
  }
  for (const std::int64_t size : p.sizes) {
    if (size < 1 || size % p.heads != 0) return ctx.invalid(fmt::format("{} does not split in heads", size));
  }
  if (p.total() != weight.dim(1) || p.sizes[0] != p.sizes[1]) return ctx.invalid("qkv_hidden_sizes does not fit");
  if (ctx.has(2) && ctx.in(2).dims() != Dims{p.total()}) return ctx.invalid("bias does not fit");
  if (ctx.has(4)) {
    const Array& past = ctx.in(4);
    if (past.rank() != 5 || past.dim(0) != 2 || past.dim(1) != p.batch || past.dim(2) != p.heads ||
        past.dim(4) != p.sizes[0] / p.heads || p.sizes[2] != p.sizes[0]) {
      return ctx.invalid("past " + dims_text(past.dims()) + " does not fit");
    }
    p.past = past.dim(3);
  }
  return p;
}

// [batch * length, total] = x W + b
template <typename T>
std::vector<T> project(const KernelContext& ctx, const Packed& p) {
  const std::int64_t rows = p.batch * p.length;
  std::vector<T> out(static_cast<std::size_t>(rows * p.total()));
  gemm(rows, p.total(), p.in, T{1}, ctx.in(0).data<T>(), p.in, false, ctx.in(1).data<T>(), p.total(), false, T{0},
       out.data(), p.total());
  if (ctx.has(2)) {
    const T* bias = ctx.in(2).data<T>();
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += bias[i % static_cast<std::size_t>(p.total())];
  }
  return out;
}

// Keys (or values) of the past and the new ones, [batch, heads, keys, width].
template <typename T>
std::vector<T> joined(const KernelContext& ctx, const Packed& p, const std::vector<T>& fresh, int which) {
  const std::int64_t width = p.sizes[static_cast<std::size_t>(which + 1)] / p.heads;
  const std::int64_t offset = p.sizes[0] + (which == 1 ? p.sizes[1] : 0);
  std::vector<T> all(static_cast<std::size_t>(p.batch * p.heads * p.keys() * width));
  for (std::int64_t i = 0; i < p.batch * p.heads; ++i) {
    T* to = all.data() + i * p.keys() * width;
    if (p.past > 0) {
      const T* past = ctx.in(4).data<T>() + (which * p.batch * p.heads + i) * p.past * width;
      std::copy_n(past, p.past * width, to);
    }
    for (std::int64_t row = 0; row < p.length; ++row) {
      const T* from = fresh.data() + (i / p.heads * p.length + row) * p.total() + offset + i % p.heads * width;
      std::copy_n(from, width, to + (p.past + row) * width);
    }
  }
  return all;
}

// Which keys are open to query i of batch element b, from mask_index in any of its forms.
Result<std::function<bool(std::int64_t b, std::int64_t i, std::int64_t key)>> read_mask(const KernelContext& ctx,
                                                                                        const Packed& p) {
  const Array& mask = ctx.in(3);
  OF_ASSIGN(const std::vector<std::int64_t> given, to_int64s(mask));
  const auto at = [given](std::int64_t i) { return given[static_cast<std::size_t>(i)]; };
  const std::int64_t batch = p.batch, length = p.length, keys = p.keys();
  using Open = std::function<bool(std::int64_t, std::int64_t, std::int64_t)>;
  if (mask.dims() == Dims{batch}) return Open([=](auto b, auto, auto key) { return key < at(b); });
  if (mask.dims() == Dims{2 * batch}) {
    return Open([=](auto b, auto, auto key) { return key < at(b) && key >= at(batch + b); });
  }
  if (mask.dims() == Dims{batch, keys}) return Open([=](auto b, auto, auto key) { return at(b * keys + key) > 0; });
  if (mask.dims() == Dims{batch, length, keys}) {
    return Open([=](auto b, auto i, auto key) { return at((b * length + i) * keys + key) > 0; });
  }
  return ctx.unsupported("mask_index of shape " + dims_text(mask.dims()) + " is not supported");
}

// Mask and attention_bias as one additive bias, [batch, heads, length, keys].
template <typename T>
Status place_mask(const KernelContext& ctx, const Packed& p, std::vector<T>& numbers, Attention<T>& a) {
  if (!ctx.has(3) && !ctx.has(5)) return {};
  const std::int64_t keys = p.keys();
  numbers.assign(static_cast<std::size_t>(p.batch * p.heads * p.length * keys), T{0});
  std::function<bool(std::int64_t, std::int64_t, std::int64_t)> open;
  if (ctx.has(3)) {
    OF_ASSIGN(open, read_mask(ctx, p));
  }
  const Array* bias = ctx.has(5) ? &ctx.in(5) : nullptr;
  if (bias && (bias->rank() != 4 || (bias->dim(0) != 1 && bias->dim(0) != p.batch) ||
               (bias->dim(1) != 1 && bias->dim(1) != p.heads) || bias->dim(2) != p.length || bias->dim(3) != keys)) {
    return ctx.invalid("attention_bias " + dims_text(bias->dims()) + " does not fit the scores");
  }
  const T masked = static_cast<T>(ctx.attr("mask_filter_value", -10000.0F));
  for (std::int64_t at = 0; at < static_cast<std::int64_t>(numbers.size()); ++at) {
    const std::int64_t key = at % keys, i = at / keys % p.length, h = at / (keys * p.length) % p.heads,
                       b = at / (keys * p.length * p.heads);
    T& number = numbers[static_cast<std::size_t>(at)];
    if (open && !open(b, i, key)) number = masked;
    if (bias == nullptr) continue;
    const std::int64_t plane = (bias->dim(0) == 1 ? 0 : b) * bias->dim(1) + (bias->dim(1) == 1 ? 0 : h);
    number += bias->data<T>()[(plane * p.length + i) * keys + key];
  }
  a.bias = numbers.data();
  a.bias_row = a.bias_keys = keys;
  a.bias_head = p.length * keys;
  a.bias_batch = p.heads * a.bias_head;
  return {};
}

template <typename T>
Status run_packed(KernelContext& ctx, const Packed& p) {
  const std::vector<T> fresh = project<T>(ctx, p);
  const std::vector<T> k = joined(ctx, p, fresh, 0), v = joined(ctx, p, fresh, 1);
  const std::int64_t width = p.sizes[0] / p.heads, value_width = p.sizes[2] / p.heads, keys = p.keys();
  Attention<T> a{};
  a.batch = p.batch, a.heads = a.kv_heads = p.heads, a.queries = p.length, a.keys = keys, a.width = width,
  a.value_width = value_width;
  a.q = fresh.data(), a.k = k.data(), a.v = v.data();
  a.q_rows = {p.length * p.total(), width, p.total()};
  a.k_rows = {p.heads * keys * width, keys * width, width};
  a.v_rows = {p.heads * keys * value_width, keys * value_width, value_width};
  a.out = ctx.out(0, ctx.in(0).dtype(), {p.batch, p.length, p.sizes[2]}).template mutable_data<T>();
  a.out_rows = {p.length * p.sizes[2], value_width, p.sizes[2]};
  const double scale = ctx.attr("scale", 0.0F);
  a.scale = scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(width));
  std::vector<T> numbers;
  OF_TRY(place_mask(ctx, p, numbers, a));
  if (ctx.attr("unidirectional", std::int64_t{0}) != 0) {
    a.visible = [past = p.past](std::int64_t, std::int64_t i) { return std::pair(std::int64_t{0}, past + i + 1); };
  }
  attend(a);
  if (!ctx.wants(1)) return {};
  if (width != value_width) return ctx.unsupported("present needs keys and values of one width");
  T* present = ctx.out(1, ctx.in(0).dtype(), {2, p.batch, p.heads, keys, width}).template mutable_data<T>();
  std::copy(k.begin(), k.end(), present);
  std::copy(v.begin(), v.end(), present + k.size());
  return {};
}

Status packed_attention(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  for (const char* name : {"do_rotary", "past_present_share_buffer"}) {
    if (ctx.attr(name, std::int64_t{0}) != 0)
      return ctx.unsupported(fmt::format("attribute {} is not supported", name));
  }
  OF_ASSIGN(const Packed p, read_packed(ctx));
  if (ctx.in(1).storage() != ctx.in(0).storage()) return ctx.invalid("input and weights have different types");
  Status status;
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) { status = run_packed<T>(ctx, p); });
  return done ? status : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"Attention", 1, packed_attention, "com.microsoft"}};

}  // namespace

KernelRows attention_packed_kernels() { return kRows; }

}  // namespace onnxfold
