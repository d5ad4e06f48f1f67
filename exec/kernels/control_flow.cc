// If, Loop, Scan (opset 8 and since 9).
#include <algorithm>
#include <cstring>
#include <limits>

#include "exec/broadcast.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/concat.h"
#include "exec/kernels/kernels.h"
#include "exec/strided_copy.h"

namespace onnxfold {
namespace {

Result<bool> as_bool(const KernelContext& ctx, const Datum& datum) {
  if (!datum.is_array() || datum.array.size() != 1) return ctx.invalid("a condition is not a single element");
  OF_ASSIGN(const std::vector<double> values, to_doubles(datum.array));
  return values[0] != 0;
}

Status run_if(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const bool taken, as_bool(ctx, ctx.datum(0)));
  const Graph* branch = ctx.node().attr_graph(taken ? "then_branch" : "else_branch");
  if (branch == nullptr) return ctx.invalid("a branch is missing");
  OF_ASSIGN(std::vector<Datum> outputs, ctx.run(*branch, {}));
  if (outputs.size() < ctx.output_count()) return ctx.invalid("a branch has too few outputs");
  for (std::size_t i = 0; i < ctx.output_count(); ++i) ctx.set(i, std::move(outputs[i]));
  return {};
}

// Arrays gathered iteration by iteration, to be joined along a new axis.
class Stack {
 public:
  void push(const Datum& datum) { items_.push_back(datum); }

  // `declared` types the result when there was no iteration.
  Result<Array> joined(const KernelContext& ctx, const Value& declared, std::int64_t axis, bool reversed) {
    if (items_.empty()) return nothing(ctx, declared, axis);
    std::vector<Array> arrays;
    for (const Datum& item : items_) {
      if (!item.is_array()) return ctx.invalid("a scan output is not a tensor");
      OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, item.array.rank() + 1));
      Dims dims = item.array.dims();
      dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(at), 1);
      arrays.push_back(item.array.reshaped(std::move(dims)));
    }
    if (reversed) std::reverse(arrays.begin(), arrays.end());
    return concatenate(ctx, arrays, axis < 0 ? axis + arrays.front().rank() : axis);
  }

 private:
  static Result<Array> nothing(const KernelContext& ctx, const Value& declared, std::int64_t axis) {
    if (declared.dtype() == DType::kUndefined)
      return ctx.invalid("no iteration, and the type of a scan output is unknown");
    Dims dims;
    if (declared.type().shape) {
      for (const Dim& dim : *declared.type().shape) dims.push_back(dim.known() ? *dim.value : 0);
    }
    OF_ASSIGN(const std::size_t at, resolve_axis(ctx, axis, static_cast<int>(dims.size()) + 1));
    dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(at), 0);
    return ctx.make(declared.dtype(), std::move(dims));
  }

  std::vector<Datum> items_;
};

Array int64_scalar(const KernelContext& ctx, std::int64_t value) {
  Array array = ctx.make(DType::kInt64, {});
  *array.mutable_data<std::int64_t>() = value;
  return array;
}

Array bool_scalar(const KernelContext& ctx, bool value) {
  Array array = ctx.make(DType::kBool, {});
  *array.mutable_data<bool>() = value;
  return array;
}

Result<std::int64_t> trip_count(const KernelContext& ctx) {
  if (!ctx.has(0)) return std::numeric_limits<std::int64_t>::max();
  OF_ASSIGN(const std::vector<std::int64_t> count, to_int64s(ctx.in(0)));
  if (count.size() != 1) return ctx.invalid("M must be one number");
  return count[0];
}

Status loop(KernelContext& ctx) {
  const Graph* body = ctx.node().attr_graph("body");
  if (body == nullptr || ctx.input_count() < 2) return ctx.invalid("the body or an input is missing");
  const std::size_t carried = ctx.input_count() - 2;
  if (body->inputs().size() != carried + 2 || body->outputs().size() < carried + 1) {
    return ctx.invalid("the body does not fit the number of inputs");
  }
  OF_ASSIGN(const std::int64_t trips, trip_count(ctx));
  bool go_on = true;
  if (ctx.has(1)) {
    OF_ASSIGN(go_on, as_bool(ctx, ctx.datum(1)));
  }
  std::vector<Datum> state;
  for (std::size_t i = 0; i < carried; ++i) state.push_back(ctx.datum(i + 2));
  std::vector<Stack> stacks(body->outputs().size() - 1 - carried);
  for (std::int64_t i = 0; i < trips && go_on; ++i) {
    std::vector<Datum> inputs = {int64_scalar(ctx, i), bool_scalar(ctx, go_on)};
    std::move(state.begin(), state.end(), std::back_inserter(inputs));
    OF_ASSIGN(std::vector<Datum> outputs, ctx.run(*body, std::move(inputs)));
    OF_ASSIGN(go_on, as_bool(ctx, outputs[0]));
    for (std::size_t k = 0; k < carried; ++k) state[k] = std::move(outputs[k + 1]);
    for (std::size_t k = 0; k < stacks.size(); ++k) stacks[k].push(outputs[k + 1 + carried]);
  }
  for (std::size_t k = 0; k < carried; ++k) ctx.set(k, std::move(state[k]));
  for (std::size_t k = 0; k < stacks.size(); ++k) {
    if (!ctx.wants(carried + k)) continue;
    OF_ASSIGN(Array joined, stacks[k].joined(ctx, *body->outputs()[k + 1 + carried], 0, false));
    ctx.set(carried + k, std::move(joined));
  }
  return {};
}

struct ScanShape {
  const Graph* body;
  std::size_t states, scans, outputs;  // loop-carried values, scanned inputs, scanned outputs
};

Result<ScanShape> scan_shape(const KernelContext& ctx, std::size_t inputs) {
  ScanShape shape{ctx.node().attr_graph("body"), 0, 0, 0};
  const std::int64_t scans = ctx.attr("num_scan_inputs", std::int64_t{0});
  if (shape.body == nullptr || scans < 1 || static_cast<std::size_t>(scans) > inputs) {
    return ctx.invalid("the body is missing or num_scan_inputs is wrong");
  }
  shape.scans = static_cast<std::size_t>(scans);
  shape.states = inputs - shape.scans;
  if (shape.body->inputs().size() != inputs || shape.body->outputs().size() < shape.states) {
    return ctx.invalid("the body does not fit the number of inputs");
  }
  shape.outputs = shape.body->outputs().size() - shape.states;
  return shape;
}

std::int64_t entry(const std::optional<Dims>& list, std::size_t i) { return list && i < list->size() ? (*list)[i] : 0; }

struct ScanAttributes {
  std::optional<Dims> input_axes, input_directions, output_axes, output_directions;
};

// One pass over the scanned inputs; `length` steps. Leaves final states, then joined scan outputs.
Result<std::vector<Datum>> scan_once(const KernelContext& ctx, const ScanShape& shape, const ScanAttributes& attrs,
                                     std::vector<Datum> states, const std::vector<Array>& scans, std::int64_t length) {
  std::vector<Stack> stacks(shape.outputs);
  for (std::int64_t t = 0; t < length; ++t) {
    std::vector<Datum> inputs = std::move(states);
    for (std::size_t k = 0; k < scans.size(); ++k) {
      OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, entry(attrs.input_axes, k), scans[k].rank()));
      const std::int64_t at = entry(attrs.input_directions, k) == 1 ? scans[k].dims()[axis] - 1 - t : t;
      Array item = slice_axis(ctx, scans[k], axis, at, 1);
      Dims dims = item.dims();
      dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(axis));
      inputs.emplace_back(item.reshaped(std::move(dims)));
    }
    OF_ASSIGN(std::vector<Datum> outputs, ctx.run(*shape.body, std::move(inputs)));
    for (std::size_t k = 0; k < shape.outputs; ++k) stacks[k].push(outputs[shape.states + k]);
    outputs.resize(shape.states);
    states = std::move(outputs);
  }
  for (std::size_t k = 0; k < shape.outputs; ++k) {
    const Value& declared = *shape.body->outputs()[shape.states + k];
    OF_ASSIGN(Array joined,
              stacks[k].joined(ctx, declared, entry(attrs.output_axes, k), entry(attrs.output_directions, k) == 1));
    states.emplace_back(std::move(joined));
  }
  return states;
}

Status scan(KernelContext& ctx) {
  OF_TRY(ctx.need(ctx.input_count()));
  OF_ASSIGN(const ScanShape shape, scan_shape(ctx, ctx.input_count()));
  const Node& node = ctx.node();
  const ScanAttributes attrs{node.attr_ints("scan_input_axes"), node.attr_ints("scan_input_directions"),
                             node.attr_ints("scan_output_axes"), node.attr_ints("scan_output_directions")};
  std::vector<Datum> states;
  for (std::size_t i = 0; i < shape.states; ++i) states.push_back(ctx.datum(i));
  std::vector<Array> scans;
  std::int64_t length = -1;
  for (std::size_t k = 0; k < shape.scans; ++k) {
    scans.push_back(ctx.in(shape.states + k));
    OF_ASSIGN(const std::size_t axis, resolve_axis(ctx, entry(attrs.input_axes, k), scans.back().rank()));
    const std::int64_t own = scans.back().dims()[axis];
    if (length >= 0 && own != length) return ctx.invalid("scanned inputs differ in length");
    length = own;
  }
  OF_ASSIGN(std::vector<Datum> outputs, scan_once(ctx, shape, attrs, std::move(states), scans, length));
  for (std::size_t i = 0; i < outputs.size() && i < ctx.output_count(); ++i) ctx.set(i, std::move(outputs[i]));
  return {};
}

// Without the first axis, at one index of it.
Array batch_item(const KernelContext& ctx, const Array& array, std::int64_t index) {
  Array item = slice_axis(ctx, array, 0, index, 1);
  return item.reshaped(Dims(item.dims().begin() + 1, item.dims().end()));
}

// `array` with zeros added at the end of the first axis.
Result<Array> zero_extended(const KernelContext& ctx, const Array& array, std::int64_t length) {
  if (array.dims()[0] == length) return array;
  Dims dims = array.dims();
  dims[0] = length;
  Array out = ctx.make(array.dtype(), dims);
  if (storage_bytes(out.storage()) > 0) {
    std::memset(out.mutable_raw(), 0, static_cast<std::size_t>(out.size()) * storage_bytes(out.storage()));
  }
  copy_elements(array.storage(), array.raw(), 0, out.mutable_raw(), 0, array.size());
  return out;
}

// Opset 8: a leading batch axis everywhere, optional sequence lengths as first input, scans over axis 1.
Status scan_batched(KernelContext& ctx) {
  if (ctx.input_count() < 2) return ctx.invalid("inputs are missing");
  OF_ASSIGN(const ScanShape shape, scan_shape(ctx, ctx.input_count() - 1));
  ScanAttributes attrs;
  attrs.input_directions = ctx.node().attr_ints("directions");
  for (std::size_t i = 1; i < ctx.input_count(); ++i) {
    if (!ctx.has(i) || !ctx.datum(i).is_array() || ctx.in(i).rank() < (i > shape.states ? 2 : 1)) {
      return ctx.invalid("an input has no batch axis");
    }
  }
  const Array& first = ctx.in(1 + shape.states);
  const std::int64_t batches = first.dim(0), longest = first.dim(1);
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(batches), longest);
  if (ctx.has(0)) {
    OF_ASSIGN(lengths, to_int64s(ctx.in(0)));
  }
  if (static_cast<std::int64_t>(lengths.size()) != batches)
    return ctx.invalid("one sequence length per batch is needed");
  std::vector<Stack> stacks(shape.states + shape.outputs);
  for (std::int64_t n = 0; n < batches; ++n) {
    const std::int64_t length = lengths[static_cast<std::size_t>(n)];
    std::vector<Datum> states;
    std::vector<Array> scans;
    for (std::size_t i = 1; i < ctx.input_count(); ++i) {
      if (ctx.in(i).dim(0) != batches) return ctx.invalid("batch axes differ");
      Array item = batch_item(ctx, ctx.in(i), n);
      if (i <= shape.states) {
        states.emplace_back(std::move(item));
      } else {
        if (item.dim(0) < length || length < 0) return ctx.invalid("a sequence length is out of range");
        scans.push_back(slice_axis(ctx, item, 0, 0, length));
      }
    }
    OF_ASSIGN(std::vector<Datum> outputs, scan_once(ctx, shape, attrs, std::move(states), scans, length));
    for (std::size_t k = 0; k < outputs.size(); ++k) {
      if (k >= shape.states) {
        OF_ASSIGN(Array padded, zero_extended(ctx, outputs[k].array, longest));
        outputs[k] = std::move(padded);
      }
      stacks[k].push(outputs[k]);
    }
  }
  for (std::size_t k = 0; k < stacks.size() && k < ctx.output_count(); ++k) {
    OF_ASSIGN(Array joined, stacks[k].joined(ctx, *shape.body->outputs()[k], 0, false));
    ctx.set(k, std::move(joined));
  }
  return {};
}

}  // namespace

KernelRows control_flow_kernels() {
  static const KernelRow kRows[] = {{"If", 1, run_if}, {"Loop", 1, loop}, {"Scan", 8, scan_batched}, {"Scan", 9, scan}};
  return kRows;
}

}  // namespace onnxfold
