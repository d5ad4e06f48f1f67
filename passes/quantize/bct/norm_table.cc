// LayerNorm(x) => (x - mean) * Gather(table of 1 / sqrt, sum of squares) * gain + bias
//
// The table is read on a logarithmic scale without logarithms: the sum of squares is rounded on a row of grids 4 times
// as coarse each; a code below its segment counts as the segment's first, one above as its last, and the sum of what
// the codes are past the first is the position in the table.
#include <algorithm>
#include <cmath>

#include "passes/quantize/bct/shift_blocks.h"
#include "passes/quantize/bct/tables.h"

namespace onnxfold {
namespace {

constexpr int kHeadroom = 2;          // powers of two above what the data show, for sums of a whole row
constexpr int kMeanBits = 9;          // of 1 / width: its product with an int16 stays below 2^24
constexpr int kMeanFiner = 2;         // bits of the mean below the finest step of the input
constexpr double kEpsilonShare = 64;  // sums of squares below width * epsilon / 64 change nothing

Grid whole_grid(double largest, int least_exponent) {
  Grid grid{16, -1, {}};
  const int exponent = shift_exponent(std::ldexp(largest, kHeadroom), grid.limit());
  grid.exponents = {static_cast<std::int8_t>(std::clamp(std::max(exponent, least_exponent), -126, 127))};
  return grid;
}

struct Segments {
  int first = 0;  // exponent of the finest grid
  int count = 1;
  std::int32_t low = 64, high = 255;  // codes of a segment
};

// From where epsilon hides everything up to `most`: the same for all norms of a graph, so that they share a table.
Segments segments_for(double least, double most, int bits) {
  Segments segments;
  segments.low = 1 << (bits - 2);
  segments.high = (1 << bits) - 1;
  int power = 0;
  std::frexp(std::max(least, std::ldexp(1.0, -100)), &power);
  segments.first = std::max(power - (bits - 2), -120);
  while (std::ldexp(static_cast<double>(segments.high), segments.first + 2 * (segments.count - 1)) < most &&
         segments.count < 60) {
    ++segments.count;
  }
  return segments;
}

std::vector<float> inverse_roots(const Segments& segments, double width, double epsilon, int bits) {
  std::vector<float> table;
  const std::int32_t steps = segments.high - segments.low;
  for (std::int32_t i = 0; i <= segments.count * steps; ++i) {
    const double code = segments.low + i % steps;
    const double squares = std::ldexp(code, segments.first + 2 * (i / steps));
    const double root = 1 / std::sqrt(std::max(squares / width + epsilon, std::ldexp(1.0, -120)));
    table.push_back(static_cast<float>(short_number(root, bits + 1)));
  }
  return table;
}

class NormWriter {
 public:
  NormWriter(BctWriter& writer, const Norm& norm, const NormRanges& ranges, const NormFormat& format)
      : writer_(writer),
        norm_(norm),
        ranges_(ranges),
        format_(format),
        type_(norm.input->type()),
        row_(with_last(type_, 1)) {}

  Value* run() {
    deviation_ = {8, -1, block_exponents(ranges_.deviation, format_.block, 127)};
    Value* x = norm_.input;
    Value* centred = norm_.kind == Norm::Kind::kLayer ? writer_.add("Sub", {x, mean(x)}, type_) : x;
    Value* root = inverse_root(writer_.round(centred, deviation_));
    // |x| / deviation is at most sqrt(width).
    Grid normal{16, -1, {static_cast<std::int8_t>(shift_exponent(std::sqrt(static_cast<double>(norm_.width)), 32767))}};
    Value* y = writer_.round(writer_.add("Mul", {centred, root}, type_), normal);
    if (norm_.gain != nullptr) y = writer_.add("Mul", {y, norm_.gain}, type_);
    if (norm_.bias != nullptr) y = writer_.add("Add", {y, norm_.bias}, type_);
    return y;
  }

 private:
  Value* sum(Value* value, const Type& type) {
    return writer_.add("ReduceSum", {value, writer_.axes({-1})}, type, attributes("keepdims", std::int64_t{1}));
  }

  Value* mean(Value* x) {
    const int finest = *std::min_element(deviation_.exponents.begin(), deviation_.exponents.end());
    const double width = static_cast<double>(norm_.width);
    Value* total = writer_.round(sum(x, row_), whole_grid(ranges_.sum, -126));
    Value* share = writer_.number(static_cast<float>(short_number(1 / width, kMeanBits)));
    Value* mean = writer_.add("Mul", {total, share}, row_);
    return writer_.round(mean, whole_grid(ranges_.mean, finest - kMeanFiner));
  }

  Value* inverse_root(Value* rounded) {
    const double width = static_cast<double>(norm_.width);
    const Segments segments = segments_for(width * norm_.epsilon / kEpsilonShare, format_.most_squares, format_.bits);
    Value* squares = sum(writer_.add("Mul", {rounded, rounded}, type_), row_);
    std::vector<float> ones(static_cast<std::size_t>(segments.count), 1), steps;
    for (int i = 0; i < segments.count; ++i) steps.push_back(std::ldexp(1.0F, segments.first + 2 * i));
    const Type spread = with_last(type_, segments.count);
    const Type index = with_dtype(spread, DType::kInt32);
    Value* each = writer_.add("Mul", {squares, writer_.floats({segments.count}, ones)}, spread);
    const DType code = format_.bits > 8 ? DType::kUint16 : DType::kUint8;
    Value* zeros = writer_.zeros(code, static_cast<std::size_t>(segments.count));
    Value* codes = writer_.add("QuantizeLinear", {each, writer_.floats({segments.count}, steps), zeros},
                               with_dtype(spread, code), attributes("axis", std::int64_t{-1}));
    Value* at = writer_.add("Cast", {codes}, index, attributes("to", static_cast<std::int64_t>(DType::kInt32)));
    at = writer_.add("Clip", {at, writer_.ints({}, {segments.low}), writer_.ints({}, {segments.high})}, index);
    at = writer_.add("Sub", {at, writer_.ints({}, {segments.low})}, index);
    const Type place = with_dtype(row_, DType::kInt32);
    at = sum(at, place);
    const std::vector<float> table = inverse_roots(segments, width, norm_.epsilon, format_.bits);
    return writer_.add("Gather", {writer_.floats({static_cast<std::int64_t>(table.size())}, table), at}, row_);
  }

  BctWriter& writer_;
  const Norm& norm_;
  const NormRanges& ranges_;
  NormFormat format_;
  Type type_, row_;
  Grid deviation_;
};

}  // namespace

double short_number(double value, int bits) {
  int power = 0;
  const double mantissa = std::frexp(value, &power);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, bits)), power - bits);
}

Value* emit_norm_table(BctWriter& writer, const Norm& norm, const NormRanges& ranges, const NormFormat& format) {
  return NormWriter(writer, norm, ranges, format).run();
}

}  // namespace onnxfold
