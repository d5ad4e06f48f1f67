#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::merge_casts_test {
namespace {

std::string net(const std::string& from, const std::string& to, const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (" + from + "[N] x) => (" + to + "[N] y) { " + nodes + " }";
}

TEST(MergeCasts, SkipsALosslessStep) {
  expect_rewrite("merge-casts", net("int32", "float", "a = Cast<to = 7>(x) b = Cast<to = 1>(a) y = Relu(b)"),
                 net("int32", "float", "b = Cast<to = 1>(x) y = Relu(b)"));
  expect_rewrite("merge-casts", net("float16", "int64", "a = Cast<to = 1>(x) b = Cast<to = 7>(a) y = Neg(b)"),
                 net("float16", "int64", "b = Cast<to = 7>(x) y = Neg(b)"));
  expect_rewrite("merge-casts", net("bool", "float", "a = Cast<to = 7>(x) b = Cast<to = 1>(a) y = Relu(b)"),
                 net("bool", "float", "b = Cast<to = 1>(x) y = Relu(b)"));
}
TEST(MergeCasts, CancelsARoundTrip) {
  expect_rewrite("merge-casts", net("int8", "int8", "n = Abs(x) a = Cast<to = 1>(n) b = Cast<to = 3>(a) y = Abs(b)"),
                 net("int8", "int8", "n = Abs(x) y = Abs(n)"));
}
TEST(MergeCasts, LeavesTheInnerForOtherReaders) {
  expect_rewrite("merge-casts", R"(<ir_version: 8, opset_import: ["": 17]> g (int32[N] x) => (float[N] y, int64[N] z) {
      a = Cast<to = 7>(x) b = Cast<to = 1>(a) y = Relu(b) z = Neg(a) })",
                 R"(<ir_version: 8, opset_import: ["": 17]> g (int32[N] x) => (float[N] y, int64[N] z) {
      b = Cast<to = 1>(x) y = Relu(b) a = Cast<to = 7>(x) z = Neg(a) })");
}
TEST(MergeCasts, KeepsSteps) {
  expect_unchanged("merge-casts", net("float", "float", "a = Cast<to = 7>(x) b = Cast<to = 1>(a) y = Relu(b)"));
  expect_unchanged("merge-casts", net("double", "double", "a = Cast<to = 1>(x) b = Cast<to = 11>(a) y = Neg(b)"));
  expect_unchanged("merge-casts", net("int64", "double", "a = Cast<to = 1>(x) b = Cast<to = 11>(a) y = Neg(b)"));
  expect_unchanged("merge-casts", net("int32", "double", "a = Cast<to = 1>(x) b = Cast<to = 11>(a) y = Neg(b)"));
  expect_unchanged("merge-casts", net("int32", "int64", "a = Cast<to = 12>(x) b = Cast<to = 7>(a) y = Neg(b)"));
  expect_unchanged("merge-casts", net("uint8", "int32", "a = Cast<to = 3>(x) b = Cast<to = 6>(a) y = Neg(b)"));
  expect_unchanged("merge-casts", net("float", "float", "a = Cast<to = 9>(x) b = Cast<to = 1>(a) y = Relu(b)"));
  expect_unchanged("merge-casts", net("float16", "float", "a = Cast<to = 16>(x) b = Cast<to = 1>(a) y = Relu(b)"));
}
TEST(MergeCasts, KeepsStrings) {
  expect_unchanged("merge-casts", net("int32", "string", "a = Cast<to = 1>(x) b = Cast<to = 8>(a) y = Identity(b)"));
}

}  // namespace
}  // namespace onnxfold::test::merge_casts_test
