#include <fmt/format.h>

#include "tests/passes/tie/rolled.h"

namespace onnxfold::test::unroll_layers_test {
namespace {

using testing::HasSubstr;

std::unique_ptr<Model> unrolled(const std::string& text, const OptionMap& options = {}) {
  const auto original = model_from_text(text);
  auto result = original->clone();
  const auto changed = run_pass("unroll-layers", *result, options);
  EXPECT_TRUE(changed && *changed) << (changed ? "" : changed.error().message);
  EXPECT_EQ(loop_of(result->graph()), nullptr);
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat64}) {
    EXPECT_EQ(difference(*original, *result, precision, 0), "") << text;
  }
  return result;
}

void expect_kept(const std::string& text, const std::string& reason, const OptionMap& options = {}) {
  const auto made = model_from_text(text);
  std::vector<Remark> remarks;
  const auto changed = run_pass("unroll-layers", *made, options, &remarks);
  ASSERT_TRUE(changed && !*changed);
  ASSERT_FALSE(remarks.empty());
  EXPECT_THAT(remarks[0].reason, HasSubstr(reason));
}

const std::string kPowers =
    "y = Loop({}, {}, x) <body = b (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] t) "
    "<float[4,4] w = {{}}> {{ l = {} h = MatMul(s, w) t = Tanh(h) }}>";

TEST(UnrollLayers, BodyWeightsAreKeptOnce) {
  const std::string nodes = fmt::format(fmt::runtime(kPowers), "n", "c", "Identity(k)");
  const auto made = unrolled(model("float[N,4] x", "float[N,4] y", "int64 n = {5}, bool c = {1}", nodes));
  EXPECT_EQ(made->graph().node_count(), 10U);
  EXPECT_EQ(weight_bytes(*made), 64);
}
TEST(UnrollLayers, ScriptedConditions) {
  // As torch.jit.script writes `for _ in range(3)`.
  const std::string nodes = fmt::format(fmt::runtime(kPowers), "n", "", "Cast <to = 9> (one)");
  const auto made = unrolled(model("float[N,4] x", "float[N,4] y", "int64[1] n = {3}, int64 one = {1}", nodes));
  EXPECT_EQ(made->graph().node_count(), 6U);
}
TEST(UnrollLayers, InjectedInput) {
  const auto made =
      unrolled(model("float[N,4] x", "float[N,4] y", "int64 n = {3}, bool c = {1}, float[4,4] w = {}",
                     "z = Sub(x, x) y = Loop(n, c, z) <body = b (int64 i, bool k, float[N,4] s) => "
                     "(bool k2, float[N,4] t) { k2 = Identity(k) a = Add(s, x) h = MatMul(a, w) t = Relu(h) }>"));
  EXPECT_EQ(made->graph().node_count(), 10U);
}
TEST(UnrollLayers, ConditionMayPassThrough) {
  unrolled(
      model("float[N,4] x", "float[N,4] y", "int64 n = {2}, bool c = {1}",
            "y = Loop(n, c, x) <body = b (int64 i, bool k, float[N,4] s) => (bool k, float[N,4] t) { t = Tanh(s) }>"));
}
TEST(UnrollLayers, CollectedValuesAreJoined) {
  const auto made = unrolled(
      model("float[N,4] x", "float[N,4] y, float[3,N,4] all", "int64 n = {3}, bool c = {1}",
            "y, all = Loop(n, c, x) <body = b (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] t, float[N,4] u) "
            "{ l = Identity(k) f = Cast <to = 1> (i) t = Add(s, f) u = Neg(s) }>"));
  EXPECT_EQ(made->graph().outputs()[1]->name(), "all");
}
TEST(UnrollLayers, WeightsPickedByTheTurn) {
  const auto made = unrolled(
      model("float[N,4] x", "float[N,4] y",
            "int64 n = {3}, bool c = {1}, float[3,4,4] w = {}, float[2,4] v = {}, int64[3] t = {1, 0, 1}",
            "y = Loop(n, c, x) <body = b (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] o) "
            "{ l = Identity(k) m = Gather(w, i) j = Gather(t, i) r = Gather(v, j) h = MatMul(s, m) o = Add(h, r) }>"));
  EXPECT_EQ(made->graph().node_count(), 6U);
  EXPECT_EQ(weight_bytes(*made), 3 * 64 + 2 * 16);
}
TEST(UnrollLayers, ScansBackwardsAndAlongOtherAxes) {
  unrolled(model("float[N,3] x, float[N,2,5] z", "float[N,3] y, float[N,2,3] all",
                 "float[5,3] w = {}, float[2,3] v = {}",
                 "y, all = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0], "
                 "scan_output_axes = [1], scan_output_directions = [1], "
                 "body = b (float[N,3] s, float[N,5] a, float[3] e) => (float[N,3] t, float[N,3] u) "
                 "{ h = MatMul(a, w) g = Add(h, e) t = Add(s, g) u = Tanh(g) }> (x, z, v)"));
}
TEST(UnrollLayers, NestedLoops) {
  unrolled(
      model("float[N,4] x", "float[N,4] y", "int64 n = {2}, int64 m = {3}, bool c = {1}",
            "y = Loop(n, c, x) <body = b (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] t) { l = Identity(k) "
            "t = Loop(m, k, s) <body = d (int64 i2, bool k2, float[N,4] s2) => (bool l2, float[N,4] t2) "
            "{ l2 = Identity(k2) f = Cast <to = 1> (i) g = Mul(s2, f) t2 = Cos(g) }> }>"));
}
TEST(UnrollLayers, NoTurnIsIdentity) {
  const auto made = unrolled(
      model("float[N,4] x", "float[N,4] y, float[0,2] all", "int64 n = {0}, bool c = {1}, float[2] w = {1, 2}",
            "y, all = Loop(n, c, x) <body = b (int64 i, bool k, float[N,4] s) => (bool l, float[N,4] t, float[2] u) "
            "{ l = Identity(k) t = Tanh(s) u = Neg(w) }>"));
  EXPECT_EQ(made->graph().node_count(), 2U);
}
TEST(UnrollLayers, CarriedValuesMaySwap) {
  unrolled(model("float[N,4] x, float[N,4] z", "float[N,4] y, float[N,4] v", "int64 n = {3}, bool c = {1}",
                 "y, v = Loop(n, c, x, z) <body = b (int64 i, bool k, float[N,4] s, float[N,4] r) => "
                 "(bool l, float[N,4] r2, float[N,4] t) { l = Identity(k) t = Sub(s, r) r2 = Identity(r) }>"));
}
TEST(UnrollLayers, LoopsInBranches) {
  const auto made = model_from_text(model("float[N,4] x, bool c", "float[N,4] y", "int64 n = {2}, bool k0 = {1}",
                                          "y = If(c) <then_branch = a () => (float[N,4] p) { p = Loop(n, k0, x) <body "
                                          "= b (int64 i, bool k, float[N,4] s) => "
                                          "(bool l, float[N,4] t) { l = Identity(k) t = Tanh(s) }> }, else_branch = e "
                                          "() => (float[N,4] q) { q = Neg(x) }>"));
  const auto changed = run_pass("unroll-layers", *made);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(made->graph().nodes()[0]->attr_graph("then_branch")->node_count(), 2U);
}
TEST(UnrollLayers, UnknownNumbersOfTurnsStay) {
  const std::string nodes = fmt::format(fmt::runtime(kPowers), "n", "c", "Identity(k)");
  expect_kept(model("float[N,4] x, int64 n", "float[N,4] y", "bool c = {1}", nodes), "number of turns is not constant");
  expect_kept(model("float[N,4] x, bool c", "float[N,4] y", "int64 n = {3}", nodes), "first condition is not constant");
  expect_kept(model("float[2,4] x, float[T,2,4] z", "float[2,4] y", "float one = {1}",
                    "y = Scan <num_scan_inputs = 1, body = b (float[2,4] s, float[2,4] a) => (float[2,4] t) { t = "
                    "Add(s, a) }> (x, z)"),
              "length");
}
TEST(UnrollLayers, ComputedConditionsStay) {
  expect_kept(model("float[N,4] x", "float[N,4] y", "int64 n = {3}, bool c = {1}, int64 two = {2}",
                    fmt::format(fmt::runtime(kPowers), "n", "c", "Less(i, two)")),
              "condition is computed");
}
TEST(UnrollLayers, LargeLoopsStay) {
  expect_kept(model("float[N,4] x", "float[N,4] y", "int64 n = {9000000000000000000}, bool c = {1}",
                    fmt::format(fmt::runtime(kPowers), "n", "c", "Identity(k)")),
              "max-nodes");
  expect_kept(model("float[N,4] x", "float[N,4] y", "int64 n = {6}, bool c = {1}",
                    fmt::format(fmt::runtime(kPowers), "n", "c", "Identity(k)")),
              "max-nodes 17", {{"max-nodes", "17"}});
}

}  // namespace
}  // namespace onnxfold::test::unroll_layers_test
