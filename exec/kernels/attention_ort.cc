// MultiHeadAttention and GroupQueryAttention of com.microsoft.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/attend.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/rotary.h"

namespace onnxfold {
namespace {

// Heads of new rows: from[b, r, h, :] at batch, row and head strides.
template <typename T>
struct Rows {
  const T* from;
  std::int64_t batch, heads, count, width;
  HeadRows strides;
};

// Writes rows at `start` of every head of a [batch, heads, capacity, width] cache.
template <typename T>
void store_rows(const Rows<T>& rows, std::int64_t capacity, const std::vector<std::int64_t>& start, T* cache) {
  for (std::int64_t b = 0; b < rows.batch; ++b) {
    for (std::int64_t h = 0; h < rows.heads; ++h) {
      T* to = cache + ((b * rows.heads + h) * capacity + start[static_cast<std::size_t>(b)]) * rows.width;
      const T* from = rows.from + b * rows.strides.batch_stride + h * rows.strides.head_stride;
      for (std::int64_t r = 0; r < rows.count; ++r)
        std::copy_n(from + r * rows.strides.row_stride, rows.width, to + r * rows.width);
    }
  }
}

template <typename T>
void store_past(const Array& past, std::int64_t capacity, T* cache) {
  const std::int64_t rows = past.dim(2), width = past.dim(3);
  for (std::int64_t i = 0; i < past.dim(0) * past.dim(1); ++i) {
    std::copy_n(past.data<T>() + i * rows * width, rows * width, cache + i * capacity * width);
  }
}

HeadRows cache_strides(std::int64_t heads, std::int64_t capacity, std::int64_t width) {
  return {heads * capacity * width, capacity * width, width};
}

double scale_of(const KernelContext& ctx, std::int64_t width) {
  const double given = ctx.attr("scale", 0.0F);
  return given != 0 ? given : 1 / std::sqrt(static_cast<double>(width));
}

// Refuses attributes that would change the result and are not implemented.
Status refuse(const KernelContext& ctx, std::initializer_list<const char*> names,
              std::initializer_list<std::size_t> inputs) {
  for (const char* name : names) {
    if (ctx.attr(name, std::int64_t{0}) != 0)
      return ctx.unsupported(fmt::format("attribute {} is not supported", name));
  }
  for (const std::size_t i : inputs) {
    if (ctx.has(i)) return ctx.unsupported(fmt::format("input {} is not supported", i));
  }
  return {};
}

bool past_fits(const Array& past, const Array& x, std::int64_t batch, std::int64_t heads, std::int64_t width) {
  return past.rank() == 4 && past.dim(0) == batch && past.dim(1) == heads && past.dim(3) == width &&
         past.storage() == x.storage();
}

// An additive bias that broadcasts over batch and heads, [1 or batch, 1 or heads, queries, keys].
template <typename T>
Status place_bias(const KernelContext& ctx, std::size_t input, Attention<T>& a) {
  if (!ctx.has(input)) return {};
  const Array& bias = ctx.in(input);
  const bool fits = bias.rank() == 4 && (bias.dim(0) == 1 || bias.dim(0) == a.batch) &&
                    (bias.dim(1) == 1 || bias.dim(1) == a.heads) && bias.dim(2) == a.queries && bias.dim(3) == a.keys &&
                    bias.storage() == StorageOf<T>::value;
  if (!fits) return ctx.invalid("attention bias " + dims_text(bias.dims()) + " does not fit the scores");
  a.bias = bias.data<T>();
  a.bias_row = a.bias_keys = a.keys;
  a.bias_head = bias.dim(1) == 1 ? 0 : a.queries * a.keys;
  a.bias_batch = bias.dim(0) == 1 ? 0 : bias.dim(1) * a.queries * a.keys;
  return {};
}

// ---- MultiHeadAttention ----

// Adds the projection bias of one of Q, K, V to [batch, rows, width].
template <typename T>
std::vector<T> with_bias(const Array& x, const Array* bias, std::int64_t offset) {
  std::vector<T> values(x.data<T>(), x.data<T>() + x.size());
  const std::int64_t width = x.dim(-1);
  if (bias) {
    const T* add = bias->data<T>() + offset;
    for (std::int64_t i = 0; i < x.size(); ++i) values[static_cast<std::size_t>(i)] += add[i % width];
  }
  return values;
}

// The key padding mask as an additive bias: [batch], [batch, keys] or [batch, queries, keys]; joins an existing bias.
template <typename T>
Status place_padding(const KernelContext& ctx, Attention<T>& a, std::vector<T>& numbers) {
  if (!ctx.has(4)) return {};
  const Array& mask = ctx.in(4);
  OF_ASSIGN(const std::vector<std::int64_t> given, to_int64s(mask));
  const bool lengths = mask.dims() == Dims{a.batch}, keys = mask.dims() == Dims{a.batch, a.keys};
  if (!lengths && !keys && mask.dims() != Dims{a.batch, a.queries, a.keys}) {
    return ctx.unsupported("key_padding_mask of shape " + dims_text(mask.dims()) + " is not supported");
  }
  const T masked = static_cast<T>(ctx.attr("mask_filter_value", -10000.0F));
  numbers.assign(static_cast<std::size_t>(a.batch * a.heads * a.queries * a.keys), T{0});
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const std::int64_t j = at % a.keys, q = at / a.keys % a.queries, h = at / (a.keys * a.queries) % a.heads,
                       b = at / (a.keys * a.queries * a.heads);
    const bool open =
        lengths ? j < given[static_cast<std::size_t>(b)]
                : given[static_cast<std::size_t>(keys ? b * a.keys + j : (b * a.queries + q) * a.keys + j)] != 0;
    numbers[i] =
        (open ? T{0} : masked) + (a.bias ? a.bias[b * a.bias_batch + h * a.bias_head + q * a.bias_row + j] : T{0});
  }
  a.bias = numbers.data();
  a.bias_row = a.bias_keys = a.keys;
  a.bias_head = a.queries * a.keys;
  a.bias_batch = a.heads * a.bias_head;
  return {};
}

template <typename T>
Status run_multi_head(KernelContext& ctx, std::int64_t heads) {
  const Array &query = ctx.in(0), &key = ctx.in(1), &value = ctx.in(2);
  const std::int64_t batch = query.dim(0), length = query.dim(1), width = query.dim(2) / heads;
  const bool split = key.rank() == 4;  // keys and values come as heads already
  const std::int64_t fresh = key.dim(split ? 2 : 1), value_width = split ? value.dim(3) : value.dim(2) / heads;
  const Array* bias = ctx.has(3) ? &ctx.in(3) : nullptr;
  if (bias && (bias->size() != query.dim(2) * 2 + value_width * heads || bias->storage() != query.storage()))
    return ctx.invalid("bias does not fit");
  const std::vector<T> q = with_bias<T>(query, bias, 0), k = with_bias<T>(key, split ? nullptr : bias, query.dim(2));
  const std::vector<T> v = with_bias<T>(value, split ? nullptr : bias, 2 * query.dim(2));
  const std::int64_t past = ctx.has(6) ? ctx.in(6).dim(2) : 0, keys = past + fresh;
  Array& all_keys = ctx.out(1, query.dtype(), {batch, heads, keys, width});
  Array& all_values = ctx.out(2, query.dtype(), {batch, heads, keys, value_width});
  if (past > 0) store_past(ctx.in(6), keys, all_keys.mutable_data<T>());
  if (past > 0) store_past(ctx.in(7), keys, all_values.mutable_data<T>());
  const std::vector<std::int64_t> start(static_cast<std::size_t>(batch), past);
  const auto strides = [&](std::int64_t w) {
    return split ? cache_strides(heads, fresh, w) : HeadRows{fresh * heads * w, w, heads * w};
  };
  store_rows<T>({k.data(), batch, heads, fresh, width, strides(width)}, keys, start, all_keys.mutable_data<T>());
  store_rows<T>({v.data(), batch, heads, fresh, value_width, strides(value_width)}, keys, start,
                all_values.mutable_data<T>());
  Attention<T> a{};
  a.batch = batch, a.heads = a.kv_heads = heads, a.queries = length, a.keys = keys, a.width = width,
  a.value_width = value_width;
  a.q = q.data(), a.k = all_keys.data<T>(), a.v = all_values.data<T>();
  a.q_rows = {length * heads * width, width, heads * width};
  a.k_rows = cache_strides(heads, keys, width), a.v_rows = cache_strides(heads, keys, value_width);
  a.out = ctx.out(0, query.dtype(), {batch, length, heads * value_width}).template mutable_data<T>();
  a.out_rows = {length * heads * value_width, value_width, heads * value_width};
  a.scale = scale_of(ctx, width);
  OF_TRY(place_bias(ctx, 5, a));
  std::vector<T> numbers;
  OF_TRY(place_padding(ctx, a, numbers));
  if (ctx.attr("unidirectional", std::int64_t{0}) != 0) {
    a.visible = [past](std::int64_t, std::int64_t i) { return std::pair(std::int64_t{0}, past + i + 1); };
  }
  attend(a);
  return {};
}

Status multi_head_attention(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  if (!ctx.has(1) || !ctx.has(2)) return ctx.unsupported("packed query, key and value are not supported");
  OF_TRY(refuse(ctx, {}, {8, 9}));
  const Array &query = ctx.in(0), &key = ctx.in(1), &value = ctx.in(2);
  const std::int64_t heads = ctx.attr("num_heads", std::int64_t{0});
  if (query.rank() != 3 || heads < 1 || query.dim(2) % heads != 0)
    return ctx.invalid(fmt::format("query {} does not split in {} heads", dims_text(query.dims()), heads));
  const std::int64_t width = query.dim(2) / heads;
  const bool flat = key.rank() == 3 && value.rank() == 3 && key.dim(2) == query.dim(2) && value.dim(2) % heads == 0 &&
                    key.dim(1) == value.dim(1);
  const bool split = key.rank() == 4 && value.rank() == 4 && key.dim(1) == heads && value.dim(1) == heads &&
                     key.dim(3) == width && key.dim(2) == value.dim(2);
  if ((!flat && !split) || key.dim(0) != query.dim(0) || value.dim(0) != query.dim(0) ||
      key.storage() != query.storage() || value.storage() != query.storage()) {
    return ctx.invalid(fmt::format("key {} and value {} do not fit query {}", dims_text(key.dims()),
                                   dims_text(value.dims()), dims_text(query.dims())));
  }
  const std::int64_t value_width = flat ? value.dim(2) / heads : value.dim(3);
  if (ctx.has(6) != ctx.has(7) || (ctx.has(6) && (!past_fits(ctx.in(6), query, query.dim(0), heads, width) ||
                                                  !past_fits(ctx.in(7), query, query.dim(0), heads, value_width) ||
                                                  ctx.in(6).dim(2) != ctx.in(7).dim(2)))) {
    return ctx.invalid("past_key and past_value do not fit");
  }
  Status status;
  const bool done = visit_float(query.storage(), [&]<typename T>(Tag<T>) { status = run_multi_head<T>(ctx, heads); });
  return done ? status : ctx.unsupported("element type is not a float");
}

// ---- GroupQueryAttention ----

struct Group {
  std::int64_t batch, length, heads, kv_heads, width, capacity;
  bool packed;
  std::vector<std::int64_t> past;  // keys before the new ones, per batch element
};

Result<Group> read_group(const KernelContext& ctx) {
  const Array& query = ctx.in(0);
  Group g{};
  g.heads = ctx.attr("num_heads", std::int64_t{0}), g.kv_heads = ctx.attr("kv_num_heads", std::int64_t{0});
  if (query.rank() != 3 || g.heads < 1 || g.kv_heads < 1 || g.heads % g.kv_heads != 0)
    return ctx.invalid("query must have rank 3 and num_heads be a multiple of kv_num_heads");
  g.packed = !ctx.has(1);
  const std::int64_t parts = g.heads + (g.packed ? 2 * g.kv_heads : 0);
  g.batch = query.dim(0), g.length = query.dim(1), g.width = query.dim(2) / parts;
  const Dims fresh{g.batch, g.length, g.kv_heads * g.width};
  if (query.dim(2) % parts != 0 ||
      (!g.packed && (!ctx.has(2) || ctx.in(1).dims() != fresh || ctx.in(2).dims() != fresh)))
    return ctx.invalid("query, key and value do not fit together");
  if (!ctx.has(5) || !ctx.has(6)) return ctx.invalid("seqlens_k and total_sequence_length are needed");
  OF_ASSIGN(const std::vector<std::int64_t> last, to_int64s(ctx.in(5)));
  OF_ASSIGN(const std::vector<std::int64_t> total, to_int64s(ctx.in(6)));
  if (static_cast<std::int64_t>(last.size()) != g.batch || total.size() != 1)
    return ctx.invalid("seqlens_k or total_sequence_length does not fit");
  const std::int64_t before = ctx.has(3) ? ctx.in(3).dim(2) : 0;
  if (ctx.has(3) != ctx.has(4) ||
      (ctx.has(3) && (!past_fits(ctx.in(3), query, g.batch, g.kv_heads, g.width) ||
                      ctx.in(4).dims() != ctx.in(3).dims() || ctx.in(4).storage() != query.storage()))) {
    return ctx.invalid("past_key and past_value do not fit");
  }
  if (total[0] < g.length || total[0] > before + g.length)
    return ctx.invalid(fmt::format("total_sequence_length {} does not fit", total[0]));
  g.capacity = std::max(before, total[0]);
  for (const std::int64_t l : last) {
    g.past.push_back(total[0] == g.length ? 0 : l + 1 - g.length);
    if (l < 0 || l >= total[0] || g.past.back() < 0 || g.past.back() > before)
      return ctx.invalid(fmt::format("seqlens_k {} is out of range", l));
  }
  return g;
}

// Rotates [batch, length, heads, width] values at the positions that follow each element's past.
template <typename T>
Status rotate_rows(const KernelContext& ctx, const Group& g, std::int64_t heads, std::vector<T>& values) {
  if (ctx.attr("do_rotary", std::int64_t{0}) == 0) return {};
  if (!ctx.has(7) || !ctx.has(8)) return ctx.invalid("do_rotary needs the caches");
  const Array &cosines = ctx.in(7), &sines = ctx.in(8);
  const std::int64_t half = cosines.dim(-1);
  if (cosines.rank() != 2 || sines.dims() != cosines.dims() || 2 * half > g.width ||
      cosines.storage() != StorageOf<T>::value || sines.storage() != StorageOf<T>::value) {
    return ctx.invalid("the rotary caches do not fit");
  }
  std::vector<std::int64_t> positions;
  if (ctx.has(9)) {
    OF_ASSIGN(positions, to_int64s(ctx.in(9)));
    if (static_cast<std::int64_t>(positions.size()) != g.batch * g.length)
      return ctx.invalid("position_ids do not fit");
  }
  const bool interleaved = ctx.attr("rotary_interleaved", std::int64_t{0}) != 0;
  for (std::int64_t i = 0; i < g.batch * g.length; ++i) {
    const std::int64_t row = positions.empty() ? g.past[static_cast<std::size_t>(i / g.length)] + i % g.length
                                               : positions[static_cast<std::size_t>(i)];
    if (row < 0 || row >= cosines.dim(0))
      return ctx.invalid(fmt::format("position {} lies outside the rotary caches", row));
    for (std::int64_t h = 0; h < heads; ++h) {
      T* head = values.data() + (i * heads + h) * g.width;
      rotate_head(head, cosines.data<T>() + row * half, sines.data<T>() + row * half, half, interleaved, head);
    }
  }
  return {};
}

// The columns of one of query, key, value: its own input, or a part of the packed one.
template <typename T>
std::vector<T> part(const KernelContext& ctx, const Group& g, std::size_t input, std::int64_t first,
                    std::int64_t count) {
  const Array& from = ctx.in(g.packed ? 0 : input);
  const std::int64_t stride = from.dim(2), offset = g.packed ? first * g.width : 0;
  std::vector<T> values;
  for (std::int64_t i = 0; i < g.batch * g.length; ++i) {
    const T* row = from.data<T>() + i * stride + offset;
    values.insert(values.end(), row, row + count * g.width);
  }
  return values;
}

template <typename T>
Status run_group(KernelContext& ctx, const Group& g) {
  std::vector<T> q = part<T>(ctx, g, 0, 0, g.heads), k = part<T>(ctx, g, 1, g.heads, g.kv_heads);
  const std::vector<T> v = part<T>(ctx, g, 2, g.heads + g.kv_heads, g.kv_heads);
  OF_TRY(rotate_rows(ctx, g, g.heads, q));
  OF_TRY(rotate_rows(ctx, g, g.kv_heads, k));
  const Dims cache{g.batch, g.kv_heads, g.capacity, g.width};
  const HeadRows fresh{g.length * g.kv_heads * g.width, g.width, g.kv_heads * g.width};
  const T* all[2];
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    T* to = ctx.out(i + 1, ctx.in(0).dtype(), cache).template mutable_data<T>();
    std::fill_n(to, element_count(cache), T{0});
    if (ctx.has(3)) store_past(ctx.in(3 + i), g.capacity, to);
    store_rows<T>({i == 0 ? k.data() : v.data(), g.batch, g.kv_heads, g.length, g.width, fresh}, g.capacity, g.past,
                  to);
    all[i] = to;
  }
  OF_ASSIGN(const std::vector<std::int64_t> total, to_int64s(ctx.in(6)));
  Attention<T> a{};
  a.batch = g.batch, a.heads = g.heads, a.kv_heads = g.kv_heads, a.queries = g.length, a.keys = total[0];
  a.width = a.value_width = g.width;
  a.q = q.data(), a.k = all[0], a.v = all[1];
  a.q_rows = a.out_rows = {g.length * g.heads * g.width, g.width, g.heads * g.width};
  a.k_rows = a.v_rows = cache_strides(g.kv_heads, g.capacity, g.width);
  a.out = ctx.out(0, ctx.in(0).dtype(), {g.batch, g.length, g.heads * g.width}).template mutable_data<T>();
  a.scale = scale_of(ctx, g.width);
  a.softcap = ctx.attr("softcap", 0.0F);
  OF_TRY(place_bias(ctx, 10, a));
  const std::int64_t window = ctx.attr("local_window_size", std::int64_t{-1});
  a.visible = [&g, window](std::int64_t b, std::int64_t i) {
    const std::int64_t end = g.past[static_cast<std::size_t>(b)] + i + 1;
    return std::pair(window > 0 ? std::max<std::int64_t>(0, end - window) : std::int64_t{0}, end);
  };
  attend(a);
  return {};
}

Status group_query_attention(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_TRY(
      refuse(ctx, {"smooth_softmax", "k_quant_type", "v_quant_type", "kv_cache_bit_width", "qk_output"}, {11, 12, 13}));
  OF_ASSIGN(const Group g, read_group(ctx));
  Status status;
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) { status = run_group<T>(ctx, g); });
  return done ? status : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {
    {"MultiHeadAttention", 1, multi_head_attention, "com.microsoft"},
    {"GroupQueryAttention", 1, group_query_attention, "com.microsoft"},
};

}  // namespace

KernelRows attention_ort_kernels() { return kRows; }

}  // namespace onnxfold
