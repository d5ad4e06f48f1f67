// y = f(x) => codes -> Cast -> Add row * 2^bits + 2^(bits-1) -> Gather -> codes of y
#include <algorithm>
#include <cmath>
#include <map>

#include "exec/executor.h"
#include "ir/match.h"
#include "passes/quantize/bct/tables.h"

namespace onnxfold {
namespace {

// f at every code of the input, in float64 by the function's own nodes.
Result<std::vector<double>> evaluate(const FunctionSite& site, const Value* input, int bits, int exponent) {
  const std::int64_t half = std::int64_t{1} << (bits - 1);
  Array grid(site.input->dtype(), {2 * half}, Precision::kFloat64);
  for (std::int64_t i = 0; i < 2 * half; ++i) {
    grid.mutable_data<double>()[i] = std::ldexp(static_cast<double>(i - half), exponent);
  }
  std::map<const Value*, Datum> known;
  known[site.input] = known[input] = Datum(std::move(grid));
  for (const Node* node : site.nodes) {
    std::vector<Datum> inputs;
    for (const Value* value : node->inputs()) {
      const auto found = known.find(value);
      if (found != known.end() || value == nullptr) {
        inputs.push_back(value == nullptr ? Datum() : found->second);
      } else if (constant(value) != nullptr) {
        OF_ASSIGN(Array array, to_array(*constant(value), Precision::kFloat64));
        inputs.emplace_back(std::move(array));
      } else {
        return fail(Code::kUnsupported, "it reads a second computed value");
      }
    }
    OF_ASSIGN(const std::vector<Datum> outputs, run_node(*node, std::move(inputs), Precision::kFloat64));
    for (std::size_t i = 0; i < outputs.size() && i < node->outputs().size(); ++i) known[node->output(i)] = outputs[i];
  }
  OF_ASSIGN(std::vector<double> values, to_doubles(known[site.output].array));
  if (static_cast<std::int64_t>(values.size()) != 2 * half) return fail(Code::kUnsupported, "it mixes positions");
  return values;
}

void append_code(Buffer& table, double value, const Grid& grid, int exponent) {
  const double limit = grid.limit();
  const double code = std::isnan(value) ? 0 : std::clamp(std::nearbyint(std::ldexp(value, -exponent)), -limit, limit);
  const int stored = static_cast<int>(code) + grid.zero();
  table.push_back(static_cast<std::byte>(stored & 0xFF));
  if (grid.bits > 8) table.push_back(static_cast<std::byte>((stored >> 8) & 0xFF));
}

}  // namespace

Result<Value*> emit_function_table(BctWriter& writer, const FunctionSite& site, const RoundedInput& input,
                                   const Grid& in, const Grid& out) {
  const std::size_t channels = std::max(in.exponents.size(), out.exponents.size());
  const std::int64_t size = std::int64_t{1} << in.bits;
  std::map<std::pair<int, int>, std::int32_t> rows;
  Buffer table;
  std::vector<std::int32_t> offsets;
  for (std::size_t c = 0; c < channels; ++c) {
    const std::pair<int, int> key{in.exponents[in.exponents.size() == 1 ? 0 : c],
                                  out.exponents[out.exponents.size() == 1 ? 0 : c]};
    if (!rows.contains(key)) {
      rows[key] = static_cast<std::int32_t>(rows.size());
      OF_ASSIGN(const std::vector<double> values, evaluate(site, input.decoded, in.bits, key.first));
      for (const double value : values) append_code(table, value, out, key.second);
    }
    offsets.push_back(static_cast<std::int32_t>(rows.at(key) * size + size / 2 - in.zero()));
  }
  if (rows.size() == 1) offsets.resize(1);
  const std::int64_t axis = in.exponents.size() > 1 ? in.axis : out.axis;
  Dims dims;
  if (offsets.size() > 1) {
    dims.assign(static_cast<std::size_t>(-axis), 1);
    dims[0] = static_cast<std::int64_t>(offsets.size());
  }
  const Type index = with_dtype(site.input->type(), DType::kInt32);
  Value* at = writer.add("Cast", {input.codes}, index, attributes("to", static_cast<std::int64_t>(DType::kInt32)));
  at = writer.add("Add", {at, writer.ints(dims, offsets)}, index);
  const Dims entries{static_cast<std::int64_t>(rows.size()) * size};
  Value* codes = writer.tensor(Tensor::owned(out.dtype(), entries, std::move(table)));
  return writer.add("Gather", {codes, at}, with_dtype(site.output->type(), out.dtype()));
}

}  // namespace onnxfold
