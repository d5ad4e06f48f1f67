// Attention of the default domain (opset 23 on).
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/attend.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

// Q, K or V: [batch, heads, rows, width] in memory of either layout.
struct Heads {
  std::int64_t batch, heads, rows, width;
  HeadRows strides;
};

Result<Heads> split_heads(const KernelContext& ctx, std::size_t input, const char* heads_attribute) {
  const Dims& d = ctx.in(input).dims();
  if (d.size() == 4) return Heads{d[0], d[1], d[2], d[3], {d[1] * d[2] * d[3], d[2] * d[3], d[3]}};
  const std::int64_t heads = ctx.attr(heads_attribute, std::int64_t{0});
  if (d.size() != 3) return ctx.invalid(fmt::format("input {} has rank {}, need 3 or 4", input, d.size()));
  if (heads < 1 || d[2] % heads != 0)
    return ctx.invalid(fmt::format("{} = {} does not divide the width {}", heads_attribute, heads, d[2]));
  return Heads{d[0], heads, d[1], d[2] / heads, {d[1] * d[2], d[2] / heads, d[2]}};
}

// past rows, then the new ones, as [batch, heads, rows, width].
template <typename T>
void concat_rows(const Array* past, const Heads& fresh, const T* from, T* to) {
  const std::int64_t before = past ? past->dim(2) : 0;
  for (std::int64_t i = 0; i < fresh.batch * fresh.heads; ++i) {
    if (past) to = std::copy_n(past->data<T>() + i * before * fresh.width, before * fresh.width, to);
    const T* head = from + i / fresh.heads * fresh.strides.batch_stride + i % fresh.heads * fresh.strides.head_stride;
    for (std::int64_t r = 0; r < fresh.rows; ++r)
      to = std::copy_n(head + r * fresh.strides.row_stride, fresh.width, to);
  }
}

struct Inputs {
  Heads q, k, v;
  std::int64_t past = 0;
  std::vector<std::int64_t> valid;  // nonpad_kv_seqlen, or empty
};

Status check_past(const KernelContext& ctx, std::size_t input, const Heads& fresh) {
  const Dims& d = ctx.in(input).dims();
  if (d.size() == 4 && d[0] == fresh.batch && d[1] == fresh.heads && d[3] == fresh.width &&
      ctx.in(input).storage() == ctx.in(0).storage())
    return {};
  return ctx.invalid(fmt::format("past of shape {} does not fit the new keys and values", dims_text(d)));
}

Result<Inputs> read_inputs(const KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  Inputs in{};
  OF_ASSIGN(in.q, split_heads(ctx, 0, "q_num_heads"));
  OF_ASSIGN(in.k, split_heads(ctx, 1, "kv_num_heads"));
  OF_ASSIGN(in.v, split_heads(ctx, 2, "kv_num_heads"));
  const bool fits = in.q.batch == in.k.batch && in.k.batch == in.v.batch && in.k.heads == in.v.heads &&
                    in.k.rows == in.v.rows && in.q.width == in.k.width && in.k.heads > 0 &&
                    in.q.heads % in.k.heads == 0 && ctx.in(1).storage() == ctx.in(0).storage() &&
                    ctx.in(2).storage() == ctx.in(0).storage();
  if (!fits) {
    return ctx.invalid(fmt::format("Q {}, K {} and V {} do not fit together", dims_text(ctx.in(0).dims()),
                                   dims_text(ctx.in(1).dims()), dims_text(ctx.in(2).dims())));
  }
  if (ctx.has(4) != ctx.has(5)) return ctx.invalid("past_key and past_value go together");
  if (ctx.has(4)) {
    OF_TRY(check_past(ctx, 4, in.k));
    OF_TRY(check_past(ctx, 5, in.v));
    in.past = ctx.in(4).dim(2);
    if (ctx.in(5).dim(2) != in.past) return ctx.invalid("past_key and past_value differ in length");
  }
  if (ctx.has(6)) {
    OF_ASSIGN(in.valid, to_int64s(ctx.in(6)));
    if (static_cast<std::int64_t>(in.valid.size()) != in.q.batch)
      return ctx.invalid("nonpad_kv_seqlen does not fit the batch");
  }
  return in;
}

// The mask as numbers to add, with its strides in `a`.
template <typename T>
Status place_mask(const KernelContext& ctx, Attention<T>& a, std::vector<T>& numbers) {
  if (!ctx.has(3)) return {};
  const Array& mask = ctx.in(3);
  Dims dims(mask.dims());
  if (dims.empty() || dims.size() > 4) return ctx.invalid("attn_mask must have rank 1 to 4");
  dims.insert(dims.begin(), 4 - dims.size(), 1);
  const std::int64_t full[] = {a.batch, a.heads, a.queries};
  for (std::size_t i = 0; i < 3; ++i) {
    if (dims[i] != 1 && dims[i] != full[i])
      return ctx.invalid("attn_mask " + dims_text(mask.dims()) + " does not fit the scores");
  }
  if (dims[3] > a.keys)
    return ctx.invalid("attn_mask " + dims_text(mask.dims()) + " has more columns than there are keys");
  if (mask.storage() == Storage::kBool) {
    numbers.resize(static_cast<std::size_t>(mask.size()));
    for (std::size_t i = 0; i < numbers.size(); ++i)
      numbers[i] = mask.data<bool>()[i] ? T{0} : -std::numeric_limits<T>::infinity();
    a.bias = numbers.data();
  } else if (mask.storage() == StorageOf<T>::value) {
    a.bias = mask.data<T>();
  } else {
    return ctx.invalid("attn_mask is neither bool nor of the type of Q");
  }
  a.bias_row = dims[2] == 1 ? 0 : dims[3];
  a.bias_head = dims[1] == 1 ? 0 : dims[2] * dims[3];
  a.bias_batch = dims[0] == 1 ? 0 : dims[1] * dims[2] * dims[3];
  a.bias_column = dims[3] == 1 ? 0 : 1;
  a.bias_keys = dims[3] == 1 ? a.keys : dims[3];
  return {};
}

template <typename T>
void place_window(const KernelContext& ctx, const Inputs& in, Attention<T>& a) {
  const bool causal = ctx.attr("is_causal", std::int64_t{0}) != 0;
  const std::int64_t left = ctx.attr("left_window_size", std::int64_t{-1}),
                     right = ctx.attr("right_window_size", std::int64_t{-1});
  if (!causal && left < 0 && right < 0 && in.valid.empty()) return;
  const bool cached = ctx.has(4);
  a.visible = [=, &in, keys = a.keys, queries = a.queries](std::int64_t b, std::int64_t i) {
    const std::int64_t valid = in.valid.empty() ? keys : in.valid[static_cast<std::size_t>(b)];
    const std::int64_t offset = cached ? in.past : in.valid.empty() ? 0 : valid - queries, at = i + offset;
    std::int64_t last = valid;
    if (causal) last = std::min(last, at + 1);
    if (right >= 0 && right < keys) last = std::min(last, at + right + 1);
    return std::pair(left >= 0 ? at - std::min(left, at) : std::int64_t{0}, last);
  };
}

template <typename T>
Status run(KernelContext& ctx, const Inputs& in) {
  Attention<T> a{};
  const std::int64_t keys = in.past + in.k.rows;
  a.batch = in.q.batch, a.heads = in.q.heads, a.kv_heads = in.k.heads, a.queries = in.q.rows, a.keys = keys;
  a.width = in.q.width, a.value_width = in.v.width;
  a.q = ctx.in(0).data<T>(), a.k = ctx.in(1).data<T>(), a.v = ctx.in(2).data<T>();
  a.q_rows = in.q.strides, a.k_rows = in.k.strides, a.v_rows = in.v.strides;
  if (ctx.has(4) || ctx.wants(1) || ctx.wants(2)) {
    Array& key = ctx.out(1, ctx.in(1).dtype(), {in.k.batch, in.k.heads, keys, in.k.width});
    Array& value = ctx.out(2, ctx.in(2).dtype(), {in.v.batch, in.v.heads, keys, in.v.width});
    concat_rows(ctx.has(4) ? &ctx.in(4) : nullptr, in.k, a.k, key.mutable_data<T>());
    concat_rows(ctx.has(5) ? &ctx.in(5) : nullptr, in.v, a.v, value.mutable_data<T>());
    a.k = key.data<T>(), a.v = value.data<T>();
    a.k_rows = {in.k.heads * keys * in.k.width, keys * in.k.width, in.k.width};
    a.v_rows = {in.v.heads * keys * in.v.width, keys * in.v.width, in.v.width};
  }
  const bool flat = ctx.in(0).rank() == 3;
  const std::int64_t width = in.v.width, rows = in.q.rows, heads = in.q.heads;
  Array& y =
      ctx.out(0, ctx.in(0).dtype(), flat ? Dims{a.batch, rows, heads * width} : Dims{a.batch, heads, rows, width});
  a.out = y.mutable_data<T>();
  a.out_rows =
      flat ? HeadRows{rows * heads * width, width, heads * width} : HeadRows{heads * rows * width, rows * width, width};
  a.scale = ctx.node().attribute("scale") ? static_cast<double>(ctx.attr("scale", 1.0F))
                                          : 1 / std::sqrt(static_cast<double>(a.width));
  a.softcap = ctx.attr("softcap", 0.0F);
  a.scores_stage = static_cast<int>(ctx.attr("qk_matmul_output_mode", std::int64_t{0}));
  if (ctx.wants(3))
    a.scores_out = ctx.out(3, ctx.in(0).dtype(), {a.batch, heads, rows, keys}).template mutable_data<T>();
  std::vector<T> numbers;
  OF_TRY(place_mask(ctx, a, numbers));
  place_window(ctx, in, a);
  attend(a);
  return {};
}

Status attention(KernelContext& ctx) {
  OF_ASSIGN(const Inputs in, read_inputs(ctx));
  Status status;
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) { status = run<T>(ctx, in); });
  return done ? status : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"Attention", 23, attention}};

}  // namespace

KernelRows attention_kernels() { return kRows; }

}  // namespace onnxfold
