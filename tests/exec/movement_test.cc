// Kernels that move elements: branches the ONNX node tests do not reach.
#include <numeric>

#include "tests/exec/run_op.h"

namespace onnxfold::movement_test {
namespace {

using test::array;
using test::attributes;
using test::expect_array;
using test::expect_failure;
using test::integer;
using test::ints;
using test::run_op;
using test::text;

std::vector<float> counting(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

// Against the definition, for every order of four axes of which one is longer than a tile.
TEST(Transpose, EveryOrder) {
  const Dims dims = {3, 2, 37, 5};
  const Array data = array<float>(dims, counting(3 * 2 * 37 * 5));
  Dims order = {0, 1, 2, 3};
  do {
    Dims out_dims, strides = {2 * 37 * 5, 37 * 5, 5, 1};
    for (const std::int64_t axis : order) out_dims.push_back(dims[static_cast<std::size_t>(axis)]);
    std::vector<float> expected;
    for (std::int64_t flat = 0; flat < data.size(); ++flat) {
      std::int64_t rest = flat, offset = 0;
      for (std::size_t k = 4; k-- > 0; rest /= out_dims[k]) {
        offset += rest % out_dims[k] * strides[static_cast<std::size_t>(order[k])];
      }
      expected.push_back(static_cast<float>(offset));
    }
    expect_array<float>(run_op("Transpose", {data}, attributes(ints("perm", order))), 0, out_dims, expected);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(Transpose, RefusesBadPerm) {
  const Array data = array<float>({2, 2}, counting(4));
  expect_failure(run_op("Transpose", {data}, attributes(ints("perm", {0, 0}))), Code::kInvalidArgument, "repeats");
  expect_failure(run_op("Transpose", {data}, attributes(ints("perm", {0, 2}))), Code::kInvalidArgument, "range");
  expect_failure(run_op("Transpose", {data}, attributes(ints("perm", {0}))), Code::kInvalidArgument, "rank");
}

TEST(Slice, NegativeStepReachesTheStart) {
  const auto one = [](std::int64_t v) { return array<std::int64_t>({1}, {v}); };
  const Array data = array<float>({5}, counting(5));
  const std::int64_t lowest = std::numeric_limits<std::int64_t>::min(),
                     highest = std::numeric_limits<std::int64_t>::max();
  expect_array<float>(run_op("Slice", {data, one(highest), one(lowest), one(0), one(-2)}), 0, {3}, {4, 2, 0});
  expect_array<float>(run_op("Slice", {data, one(0), one(highest), one(-1), one(highest)}), 0, {1}, {0});
  expect_array<float>(run_op("Slice", {data, one(3), one(1)}), 0, {0}, {});
  expect_failure(run_op("Slice", {data, one(0), one(2), one(0), one(0)}), Code::kInvalidArgument, "step");
}

TEST(Slice, AttributesBeforeOpset10) {
  const auto out = run_op("Slice", {array<float>({2, 3}, counting(6))},
                          attributes(ints("starts", {1}), ints("ends", {3}), ints("axes", {1})), {.opset = 1});
  expect_array<float>(out, 0, {2, 2}, {1, 2, 4, 5});
}

TEST(Split, UnevenSinceOpset18) {
  const auto out =
      run_op("Split", {array<float>({7}, counting(7))}, attributes(integer("num_outputs", 3)), {.outputs = 3});
  expect_array<float>(out, 0, {3}, {0, 1, 2});
  expect_array<float>(out, 2, {1}, {6});
}

TEST(Split, LengthsMustAddUp) {
  const auto lengths = array<std::int64_t>({2}, {3, 3});
  expect_failure(run_op("Split", {array<float>({7}, counting(7)), lengths}, {}, {.outputs = 2}), Code::kInvalidArgument,
                 "add up");
}

TEST(Gather, NegativeIndexAndMiddleAxis) {
  const Array data = array<float>({2, 3, 2}, counting(12));
  const auto out = run_op("Gather", {data, array<std::int64_t>({2}, {-1, 0})}, attributes(integer("axis", 1)));
  expect_array<float>(out, 0, {2, 2, 2}, {4, 5, 0, 1, 10, 11, 6, 7});
  expect_failure(run_op("Gather", {data, array<std::int64_t>({}, {2})}), Code::kInvalidArgument, "out of range");
  expect_failure(run_op("Gather", {data, array<std::int64_t>({}, {-3})}), Code::kInvalidArgument, "out of range");
}

TEST(Concat, StringsAndEmptyInputs) {
  const auto out = run_op(
      "Concat",
      {array<std::string>({1, 1}, {"a"}), array<std::string>({1, 0}, {}), array<std::string>({1, 2}, {"b", "c"})},
      attributes(integer("axis", -1)));
  expect_array<std::string>(out, 0, {1, 3}, {"a", "b", "c"});
  expect_failure(run_op("Concat", {array<float>({1}, {1}), array<float>({1, 1}, {1})}, attributes(integer("axis", 0))),
                 Code::kInvalidArgument, "rank");
}

TEST(Reshape, CopiesAndInfersDimensions) {
  const Array data = array<float>({2, 6}, counting(12));
  expect_array<float>(run_op("Reshape", {data, array<std::int64_t>({3}, {0, -1, 2})}), 0, {2, 3, 2}, counting(12));
  expect_failure(run_op("Reshape", {data, array<std::int64_t>({2}, {-1, -1})}), Code::kInvalidArgument,
                 "more than one");
  expect_failure(run_op("Reshape", {data, array<std::int64_t>({2}, {5, -1})}), Code::kInvalidArgument, "reshape");
  expect_failure(run_op("Reshape", {data, array<std::int64_t>({2}, {-2, 6})}), Code::kInvalidArgument, "bad shape");
}

TEST(Pad, NegativePadsCropBeforeReflection) {
  const Array data = array<float>({5}, counting(5));
  const auto pads = array<std::int64_t>({2}, {-1, 2});
  expect_array<float>(run_op("Pad", {data, pads}, attributes(text("mode", "reflect"))), 0, {6}, {1, 2, 3, 4, 3, 2});
  expect_array<float>(run_op("Pad", {data, pads}), 0, {6}, {1, 2, 3, 4, 0, 0});
  expect_failure(run_op("Pad", {data, array<std::int64_t>({2}, {-3, -3})}), Code::kInvalidArgument, "negative");
}

TEST(TopK, TiesKeepTheLowerIndex) {
  const auto out = run_op("TopK", {array<float>({4}, {2, 3, 3, 1}), array<std::int64_t>({1}, {3})}, {}, {.outputs = 2});
  expect_array<float>(out, 0, {3}, {3, 3, 2});
  expect_array<std::int64_t>(out, 1, {3}, {1, 2, 0});
}

TEST(ScatterND, RepeatedIndicesAdd) {
  const auto out = run_op(
      "ScatterND", {array<float>({3}, {1, 1, 1}), array<std::int64_t>({2, 1}, {1, 1}), array<float>({2}, {5, 7})},
      attributes(text("reduction", "add")));
  expect_array<float>(out, 0, {3}, {1, 13, 1});
}

TEST(Range, LengthsRoundUp) {
  const auto f = [](float v) { return array<float>({}, {v}); };
  expect_array<float>(run_op("Range", {f(0), f(1), f(0.4F)}), 0, {3}, {0.0F, 0.4F, 0.8F});
  expect_array<float>(run_op("Range", {f(1), f(0), f(1)}), 0, {0}, {});
  expect_failure(run_op("Range", {f(1), f(0), f(0)}), Code::kInvalidArgument, "delta");
}

}  // namespace
}  // namespace onnxfold::movement_test
