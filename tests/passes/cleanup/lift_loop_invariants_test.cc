#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::lift_loop_invariants_test {
namespace {

std::string net(const std::string& nodes, const std::string& result = "float[2, 2] y") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[2, 2] x) => (" + result +
         ") <int64 n = {3}, bool c = {1}, float[2, 2] w = {1, 2, 3, 4}, int64[1] axis = {0}> { " + nodes + " }";
}

const std::string kHead = "<body = b (int64 i, bool go, ";

TEST(LiftLoopInvariants, ReadsAWeightThatIsCarriedAlong) {
  expect_rewrite(
      "lift-loop-invariants",
      net("k, y = Loop " + kHead + R"(float[2, 2] v, float[2, 2] s) => (bool on, float[2, 2] v, float[2, 2] t)
                     { on = Identity(go) t = MatMul(s, v) }> (n, c, w, x))"),
      net("y = Loop " + kHead + R"(float[2, 2] s) => (bool on, float[2, 2] t)
                     { on = Identity(go) t = MatMul(s, w) }> (n, c, x))"));
}

TEST(LiftLoopInvariants, SeesThroughIdentitiesAndGivesTheValueBack) {
  expect_rewrite(
      "lift-loop-invariants",
      net("k, p = Loop " + kHead + R"(float[2, 2] v, float[2, 2] s) => (bool on, float[2, 2] u, float[2, 2] t)
                     { on = Identity(go) r = Identity(v) u = Identity(r) t = MatMul(s, v) }> (n, c, w, x) y = Add(k, p))"),
      net("p = Loop " + kHead + R"(float[2, 2] s) => (bool on, float[2, 2] t)
                     { on = Identity(go) r = Identity(w) u = Identity(r) t = MatMul(s, w) }> (n, c, x) y = Add(w, p))"));
}

TEST(LiftLoopInvariants, ReadsWhatAScanCarriesAlong) {
  const std::string result = "float[2] p, float[2, 2] y";
  expect_rewrite("lift-loop-invariants",
                 net(R"(h = ReduceSum <keepdims = 0> (x, axis)
                     k, p, y = Scan <num_scan_inputs = 1, body = b (float[2, 2] v, float[2] s, float[2] r)
                     => (float[2, 2] v, float[2] t, float[2] o) { t = MatMul(s, v) o = Add(t, r) }> (w, h, x))",
                     result),
                 net(R"(h = ReduceSum <keepdims = 0> (x, axis)
                     p, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] r)
                     => (float[2] t, float[2] o) { t = MatMul(s, w) o = Add(t, r) }> (h, x))",
                     result));
}

TEST(LiftLoopInvariants, ABodyThatAlsoCollectsTheValueMakesItItself) {
  const std::string result = "float[2, 2] p, float[3, 2, 2] y";
  expect_rewrite("lift-loop-invariants",
                 net("k, p, y = Loop " + kHead + R"(float[2, 2] v, float[2, 2] s)
                     => (bool on, float[2, 2] v, float[2, 2] t, float[2, 2] v)
                     { on = Identity(go) t = MatMul(s, v) }> (n, c, w, x))",
                     result),
                 net("p, y = Loop " + kHead + R"(float[2, 2] s) => (bool on, float[2, 2] t, float[2, 2] o)
                     { on = Identity(go) t = MatMul(s, w) o = Identity(w) }> (n, c, x))",
                     result));
}

TEST(LiftLoopInvariants, ALoopThatOnlyHandsOnGoes) {
  expect_rewrite(
      "lift-loop-invariants",
      net("k = Loop " + kHead + R"(float[2, 2] v) => (bool on, float[2, 2] v) { on = Identity(go) }> (n, c, x)
                     y = Relu(k))"),
      net("y = Relu(x)"));
}

TEST(LiftLoopInvariants, KeepsWhatChangesPlaces) {
  expect_unchanged(
      "lift-loop-invariants",
      net("k, y = Loop " + kHead + R"(float[2, 2] v, float[2, 2] s) => (bool on, float[2, 2] s, float[2, 2] v)
                       { on = Identity(go) }> (n, c, w, x))"));
}

TEST(LiftLoopInvariants, KeepsWhatIsComputed) {
  expect_unchanged("lift-loop-invariants", net("y = Loop " + kHead + R"(float[2, 2] v) => (bool on, float[2, 2] u)
                       { on = Identity(go) u = Relu(v) }> (n, c, x))"));
}

TEST(LiftLoopInvariants, KeepsWhatIsScanned) {
  expect_unchanged("lift-loop-invariants", net(R"(h = ReduceSum <keepdims = 0> (x, axis)
                       p, y = Scan <num_scan_inputs = 1, body = b (float[2] s, float[2] r)
                       => (float[2] t, float[2] r) { t = Add(s, r) }> (h, x))",
                                               "float[2] p, float[2, 2] y"));
}

}  // namespace
}  // namespace onnxfold::test::lift_loop_invariants_test
