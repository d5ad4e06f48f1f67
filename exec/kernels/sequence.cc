// Sequences and optionals.
#include <algorithm>

#include "exec/broadcast.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/concat.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

using Items = std::vector<Datum>;

Result<const Items*> sequence_in(const KernelContext& ctx, std::size_t i) {
  if (!ctx.has(i)) return ctx.invalid(fmt::format("input {} is missing", i));
  const Datum* datum = &ctx.datum(i);
  if (datum->kind == Datum::Kind::kOptional && datum->items->size() == 1) datum = &datum->items->front();
  if (datum->kind != Datum::Kind::kSequence) return ctx.invalid(fmt::format("input {} is not a sequence", i));
  return datum->items.get();
}

// A position given as input `i`; `fallback` when it is omitted. `limit`: one past the last legal position.
Result<std::ptrdiff_t> position_in(const KernelContext& ctx, std::size_t i, std::int64_t count, std::int64_t fallback,
                                   std::int64_t limit) {
  std::int64_t at = fallback;
  if (ctx.has(i)) {
    OF_ASSIGN(const std::vector<std::int64_t> given, to_int64s(ctx.in(i)));
    if (given.size() != 1) return ctx.invalid("position must be one number");
    at = given[0];
  }
  if (at < -count || at >= limit) return ctx.invalid(fmt::format("position {} in a sequence of {}", at, count));
  return static_cast<std::ptrdiff_t>(at < 0 ? at + count : at);
}

Status sequence_empty(KernelContext& ctx) {
  ctx.set(0, Datum::sequence({}));
  return {};
}

Status sequence_construct(KernelContext& ctx) {
  OF_TRY(ctx.need(ctx.input_count()));
  Items items;
  for (std::size_t i = 0; i < ctx.input_count(); ++i) items.push_back(ctx.datum(i));
  ctx.set(0, Datum::sequence(std::move(items)));
  return {};
}

Status sequence_at(KernelContext& ctx) {
  OF_ASSIGN(const Items* items, sequence_in(ctx, 0));
  const auto count = static_cast<std::int64_t>(items->size());
  OF_ASSIGN(const std::ptrdiff_t at, position_in(ctx, 1, count, count, count));
  ctx.set(0, (*items)[static_cast<std::size_t>(at)]);
  return {};
}

Status sequence_length(KernelContext& ctx) {
  OF_ASSIGN(const Items* items, sequence_in(ctx, 0));
  *ctx.out(0, DType::kInt64, {}).mutable_data<std::int64_t>() = static_cast<std::int64_t>(items->size());
  return {};
}

Status sequence_insert(KernelContext& ctx) {
  OF_ASSIGN(const Items* items, sequence_in(ctx, 0));
  if (!ctx.has(1)) return ctx.invalid("input 1 is missing");
  const auto count = static_cast<std::int64_t>(items->size());
  OF_ASSIGN(const std::ptrdiff_t at, position_in(ctx, 2, count, count, count + 1));
  Items longer = *items;
  longer.insert(longer.begin() + at, ctx.datum(1));
  ctx.set(0, Datum::sequence(std::move(longer)));
  return {};
}

Status sequence_erase(KernelContext& ctx) {
  OF_ASSIGN(const Items* items, sequence_in(ctx, 0));
  const auto count = static_cast<std::int64_t>(items->size());
  OF_ASSIGN(const std::ptrdiff_t at, position_in(ctx, 1, count, count - 1, count));
  Items shorter = *items;
  shorter.erase(shorter.begin() + at);
  ctx.set(0, Datum::sequence(std::move(shorter)));
  return {};
}

Result<Dims> chunk_lengths(const KernelContext& ctx, std::int64_t dim) {
  if (!ctx.has(1)) return Dims(static_cast<std::size_t>(dim), 1);
  OF_ASSIGN(const Dims given, to_int64s(ctx.in(1)));
  if (ctx.in(1).rank() > 0) return given;
  if (given[0] <= 0) return ctx.invalid("split must be positive");
  Dims lengths;
  for (std::int64_t left = dim; left > 0; left -= given[0]) lengths.push_back(std::min(left, given[0]));
  return lengths;
}

Status split_to_sequence(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  const Array& data = ctx.in(0);
  OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, ctx.attr("axis", std::int64_t{0}), data.rank()));
  OF_ASSIGN(const Dims lengths, chunk_lengths(ctx, data.dims()[axis]));
  const bool keep = ctx.has(1) || ctx.attr("keepdims", std::int64_t{1}) != 0;
  Items items;
  std::int64_t at = 0;
  for (const std::int64_t length : lengths) {
    if (length < 0 || length > data.dims()[axis] - at) return ctx.invalid("split lengths do not add up to the axis");
    Array item = slice_axis(ctx, data, axis, at, length);
    if (!keep) {
      Dims dims = item.dims();
      dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(axis));
      item = item.reshaped(std::move(dims));
    }
    items.emplace_back(std::move(item));
    at += length;
  }
  if (at != data.dims()[axis]) return ctx.invalid("split lengths do not add up to the axis");
  ctx.set(0, Datum::sequence(std::move(items)));
  return {};
}

Status concat_from_sequence(KernelContext& ctx) {
  OF_ASSIGN(const Items* items, sequence_in(ctx, 0));
  const std::int64_t axis = ctx.attr("axis", std::int64_t{0});
  const bool new_axis = ctx.attr("new_axis", std::int64_t{0}) != 0;
  std::vector<Array> arrays;
  for (const Datum& item : *items) {
    if (!item.is_array()) return ctx.invalid("an item is not a tensor");
    Array array = item.array;
    if (new_axis) {
      OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, array.rank() + 1));
      Dims dims = array.dims();
      dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(at), 1);
      array = array.reshaped(std::move(dims));
    }
    arrays.push_back(std::move(array));
  }
  OF_ASSIGN(Array out, concatenate(ctx, arrays, axis));
  ctx.set(0, std::move(out));
  return {};
}

// The body runs once per item; inputs that are no sequences are passed as they are.
Status sequence_map(KernelContext& ctx) {
  const Graph* body = ctx.node().attr_graph("body");
  if (body == nullptr) return ctx.invalid("the body is missing");
  OF_ASSIGN(const Items* first, sequence_in(ctx, 0));
  std::vector<Items> results(ctx.output_count());
  for (std::size_t n = 0; n < first->size(); ++n) {
    Items inputs;
    for (std::size_t i = 0; i < ctx.input_count(); ++i) {
      const Datum& datum = ctx.datum(i);
      if (datum.kind != Datum::Kind::kSequence) {
        inputs.push_back(datum);
      } else if (n < datum.items->size()) {
        inputs.push_back((*datum.items)[n]);
      } else {
        return ctx.invalid("input sequences differ in length");
      }
    }
    OF_ASSIGN(Items outputs, ctx.run(*body, std::move(inputs)));
    if (outputs.size() < results.size()) return ctx.invalid("the body has too few outputs");
    for (std::size_t k = 0; k < results.size(); ++k) results[k].push_back(std::move(outputs[k]));
  }
  for (std::size_t k = 0; k < results.size(); ++k) ctx.set(k, Datum::sequence(std::move(results[k])));
  return {};
}

Status make_optional(KernelContext& ctx) {
  ctx.set(0, ctx.has(0) ? Datum::optional({ctx.datum(0)}) : Datum::optional({}));
  return {};
}

Status optional_has_element(KernelContext& ctx) {
  const bool has = ctx.has(0) && (ctx.datum(0).kind != Datum::Kind::kOptional || !ctx.datum(0).items->empty());
  *ctx.out(0, DType::kBool, {}).mutable_data<bool>() = has;
  return {};
}

Status optional_get_element(KernelContext& ctx) {
  if (!ctx.has(0)) return ctx.invalid("input 0 is missing");
  const Datum& datum = ctx.datum(0);
  if (datum.kind == Datum::Kind::kOptional && datum.items->empty()) return ctx.invalid("the optional is empty");
  ctx.set(0, datum.kind == Datum::Kind::kOptional ? Datum(datum.items->front()) : Datum(datum));
  return {};
}

}  // namespace

KernelRows sequence_kernels() {
  static const KernelRow kRows[] = {
      {"SequenceEmpty", 11, sequence_empty},
      {"SequenceConstruct", 11, sequence_construct},
      {"SequenceAt", 11, sequence_at},
      {"SequenceLength", 11, sequence_length},
      {"SequenceInsert", 11, sequence_insert},
      {"SequenceErase", 11, sequence_erase},
      {"SplitToSequence", 11, split_to_sequence},
      {"ConcatFromSequence", 11, concat_from_sequence},
      {"SequenceMap", 17, sequence_map},
      {"Optional", 15, make_optional},
      {"OptionalHasElement", 15, optional_has_element},
      {"OptionalGetElement", 15, optional_get_element},
  };
  return kRows;
}

}  // namespace onnxfold
