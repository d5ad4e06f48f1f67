#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::remove_identity_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers = "", int opset = 17) {
  return "<ir_version: 8, opset_import: [\"\": " + std::to_string(opset) +
         "]> g (float[N, 3, 4] x) => (float[N, 3, 4] y) <" + initializers + "> { " + nodes + " }";
}

void expect_removed(const std::string& node, const std::string& initializers = "", int opset = 17) {
  expect_rewrite("remove-identity", net("a = Neg(x) " + node + " y = Relu(b)", initializers, opset),
                 net("a = Neg(x) y = Relu(a)", "", opset));
}
void expect_kept(const std::string& node, const std::string& initializers = "", int opset = 17) {
  expect_unchanged(
      "remove-identity",
      net("a = Neg(x) " + node + " z = Shape(b) f = Cast<to = 1>(z) r = ReduceSum<keepdims = 0>(f) y = Add(x, r)",
          initializers, opset));
}

TEST(RemoveIdentity, Identity) { expect_removed("b = Identity(a)"); }
TEST(RemoveIdentity, DropoutInInference) {
  expect_removed("b = Dropout(a)");
  expect_removed("b = Dropout(a, r)", "float r = {0.5}");
  expect_removed("b, m = Dropout(a)");
  expect_removed("b = Dropout(a, r, t)", "float r = {0.5}, bool t = {0}");
  expect_removed("b = Dropout<ratio = 0.5>(a)", "", 10);
}
TEST(RemoveIdentity, CastToOwnType) {
  expect_removed("b = Cast<to = 1>(a)");
  expect_removed("b = CastLike(a, x)");
}
TEST(RemoveIdentity, ReshapeToOwnShape) {
  expect_removed("b = Reshape(a, s)", "int64[3] s = {0, 3, 4}");
  expect_removed("b = Reshape(a, s)", "int64[3] s = {-1, 3, 4}");
  expect_removed("b = Reshape(a, s)", "int64[3] s = {0, 0, -1}");
}
TEST(RemoveIdentity, TransposeInOrder) { expect_removed("b = Transpose<perm = [0, 1, 2]>(a)"); }
TEST(RemoveIdentity, SliceOfEverything) {
  expect_removed("b = Slice(a, s, e, d)",
                 "int64[2] s = {0, 0}, int64[2] e = {9223372036854775807, 4}, int64[2] d = {0, 2}");
  expect_removed("b = Slice(a, s, e)", "int64[1] s = {0}, int64[1] e = {2147483647}");
  expect_removed("b = Slice<starts = [0], ends = [4], axes = [-1]>(a)", "", 9);
}
TEST(RemoveIdentity, PadByNothing) {
  expect_removed("b = Pad(a, p)", "int64[6] p = {0, 0, 0, 0, 0, 0}");
  expect_removed("b = Pad<pads = [0, 0, 0, 0, 0, 0]>(a)", "", 10);
}
TEST(RemoveIdentity, ExpandByOnes) {
  expect_removed("b = Expand(a, s)", "int64[2] s = {1, 1}");
  expect_removed("b = Expand(a, s)", "int64[2] s = {3, 4}");
}
TEST(RemoveIdentity, TileByOnes) { expect_removed("b = Tile(a, s)", "int64[3] s = {1, 1, 1}"); }
TEST(RemoveIdentity, OperatorsOfOne) {
  expect_removed("b = Concat<axis = 1>(a)");
  expect_removed("b = Sum(a)");
  expect_removed("b = Max(a)");
}
TEST(RemoveIdentity, WhereWithConstantCondition) {
  expect_removed("b = Where(c, a, x)", "bool c = {1}");
  expect_removed("b = Where(c, x, a)", "bool[4] c = {0, 0, 0, 0}");
}
TEST(RemoveIdentity, KeepsThePublicName) {
  expect_rewrite("remove-identity", net("a = Neg(x) y = Identity(a)"), net("y = Neg(x)"));
}
TEST(RemoveIdentity, LeavesIdentityBetweenInputAndOutput) {
  expect_rewrite("remove-identity", net("y = Dropout(x)"), net("y = Identity(x)"));
  expect_unchanged("remove-identity", net("y = Identity(x)"));
}
TEST(RemoveIdentity, KeepsAnIdentityOfTwoPublicNames) {
  expect_unchanged("remove-identity", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Identity(y) })");
}
TEST(RemoveIdentity, KeepsACapturedValueAsBranchResult) {
  expect_unchanged("remove-identity", R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      a = Neg(x)
      y = If(c) <then_branch = t () => (float[3] p) { p = Identity(a) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })");
}
TEST(RemoveIdentity, KeepsWhatChangesTheValue) {
  expect_kept("b = Cast<to = 11>(a)");
  expect_kept("b = Reshape(a, s)", "int64[3] s = {0, 4, 3}");
  expect_kept("b = Reshape(a, s)", "int64[3] s = {-1, 2, 6}");
  expect_kept("b = Transpose<perm = [0, 2, 1]>(a)");
  expect_kept("b = Transpose(a)");
  expect_kept("b = Slice(a, s, e)", "int64[1] s = {1}, int64[1] e = {2147483647}");
  expect_kept("b = Slice(a, s, e, d)", "int64[1] s = {0}, int64[1] e = {3}, int64[1] d = {2}");
  expect_kept("b = Slice(a, s, e, d)", "int64[1] s = {0}, int64[1] e = {-1}, int64[1] d = {2}");
  expect_kept("b = Slice(a, s, e, d, t)", "int64[1] s = {0}, int64[1] e = {4}, int64[1] d = {2}, int64[1] t = {2}");
  expect_kept("b = Pad(a, p)", "int64[6] p = {0, 0, 0, 0, 0, 1}");
  expect_kept("b = Expand(a, s)", "int64[4] s = {1, 1, 1, 1}");
  expect_kept("b = Expand(a, s)", "int64[4] s = {2, 1, 1, 1}");
  expect_kept("b = Tile(a, s)", "int64[3] s = {1, 2, 1}");
  expect_kept("b = Concat<axis = 1>(a, x)");
  expect_kept("b = Where(c, a, x)", "bool[4] c = {0, 1, 0, 0}");
  expect_kept("b = Where(c, a, x)", "bool[2, 1, 1, 1] c = {1, 1}");
}
TEST(RemoveIdentity, KeepsDropoutWithAReadMaskOrInTraining) {
  expect_unchanged("remove-identity", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y, bool[N] m) { y, m = Dropout(x) })");
  const auto model = model_from_text(net("y = Dropout(x, r, t)", "float r = {0.5}, bool t = {1}"));
  const auto changed = run_pass("remove-identity", *model);
  EXPECT_TRUE(changed && !*changed);
}
TEST(RemoveIdentity, KeepsReshapeWhenRanksMatchButDimsAreUnknown) {
  expect_unchanged("remove-identity", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[A, B] x, int64[2] s) => (float[C, D] y) { b = Reshape(x, s) y = Relu(b) })");
}
TEST(RemoveIdentity, KeepsWhereThatBroadcasts) {
  expect_unchanged("remove-identity", R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[3] a, float[2, 3] b) => (float[2, 3] y) <bool c = {1}> { w = Where(c, a, b) y = Relu(w) })");
}

}  // namespace
}  // namespace onnxfold::test::remove_identity_test
