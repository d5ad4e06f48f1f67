#include <gtest/gtest.h>

#include "tests/passes/reparam/expect_operators.h"

namespace onnxfold::test::parallelize_test {
namespace {

const std::string kPass = "parallelize";
const RewriteChecks kLossyRewrite = {false, false, "the pass is lossy and takes further pairs when run again"};

const std::string kConstants = R"(<double[4] s = {}, double[4] b = {}, double[4, 6] u0 = {}, double[4, 6] u1 = {},
    double[4, 6] u2 = {}, double[4, 6] u3 = {}, double[6, 4] d0 = {}, double[6, 4] d1 = {}, double[6, 4] d2 = {},
    double[6, 4] d3 = {}, double[6, 4] none = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    double[4, 4] wq = {}, double[4, 4] wk = {}, double[4, 4] wv = {}, double[4, 4] wo = {}, double[4, 4] vq = {},
    double[4, 4] vk = {}, double[4, 4] vv = {}, double[4, 4] vo = {}, int64[4] split = {0, 0, 2, 2},
    int64[3] join = {0, 0, 4}>)";
std::string net(const std::string& nodes, const std::string& outputs = "double[B, S, 4] y") {
  return "<ir_version: 8, opset_import: [\"\" : 20]> n (double[B, S, 4] x) => (" + outputs + ") " + kConstants + " { " +
         nodes + " }";
}
// x_out = x_join + FFN(Norm(x_in))
std::string feed_forward(const std::string& in, const std::string& join, const std::string& out, const std::string& n,
                         const std::string& down = "") {
  return "n" + n + " = LayerNormalization(" + in + ", s, b) h" + n + " = MatMul(n" + n + ", u" + n + ") a" + n +
         " = Gelu(h" + n + ") f" + n + " = MatMul(a" + n + ", " + (down.empty() ? "d" + n : down) + ") " + out +
         " = Add(" + join + ", f" + n + ") ";
}
std::string attention(const std::string& in, const std::string& join, const std::string& out, const std::string& p) {
  std::string text = p + "n = LayerNormalization(" + in + ", s, b) ";
  for (const std::string role : {"q", "k", "v"}) {
    const std::string at = p + role;
    text += at + "1 = MatMul(" + p + "n, " + at + ") " + at + "2 = Reshape(" + at + "1, split) " + at +
            "3 = Transpose<perm = [0, 2, " + (role == "k" ? "3, 1" : "1, 3") + "]>(" + at + "2) ";
  }
  return text + p + "s = MatMul(" + p + "q3, " + p + "k3) " + p + "p = Softmax<axis = -1>(" + p + "s) " + p +
         "c = MatMul(" + p + "p, " + p + "v3) " + p + "t = Transpose<perm = [0, 2, 1, 3]>(" + p + "c) " + p +
         "r = Reshape(" + p + "t, join) " + p + "x = MatMul(" + p + "r, " + p + "o) " + out + " = Add(" + join + ", " +
         p + "x) ";
}
const std::string kFour = feed_forward("x", "x", "x1", "0", "none") + feed_forward("x1", "x1", "x2", "1") +
                          feed_forward("x2", "x2", "x3", "2") + feed_forward("x3", "x3", "y", "3");
const std::string kTwoBlocks = attention("x", "x", "x1", "w") + feed_forward("x1", "x1", "x2", "0") +
                               attention("x2", "x2", "x3", "v") + feed_forward("x3", "x3", "y", "1");

TEST(Parallelize, StagedPutsAttentionBesideAttention) {
  expect_rewrite(kPass, net(kTwoBlocks),
                 net(attention("x", "x", "x1", "w") + attention("x", "x1", "x3", "v") +
                     feed_forward("x3", "x3", "x2", "0") + feed_forward("x3", "x2", "y", "1")),
                 {{"which", "0"}}, kLossyRewrite);
}
TEST(Parallelize, FullPutsAllBesideEachOther) {
  expect_rewrite(kPass, net(kTwoBlocks),
                 net(attention("x", "x", "x1", "w") + attention("x", "x1", "x3", "v") +
                     feed_forward("x", "x3", "x2", "0") + feed_forward("x", "x2", "y", "1")),
                 {{"which", "0"}, {"mode", "full"}}, {false, false, "lossy"});
}
TEST(Parallelize, ThenTheyMergeExactly) {
  const auto original = model_from_text(net(kTwoBlocks));
  auto parallel = original->clone();
  ASSERT_TRUE(run_pass(kPass, *parallel, {{"pairs", "1"}}));
  EXPECT_NE(difference(*original, *parallel, Precision::kFloat64, 1e-3, 0), "");
  auto merged = parallel->clone();
  ASSERT_TRUE(run_pass("merge-parallel-attention", *merged));
  ASSERT_TRUE(run_pass("merge-parallel-ffn", *merged));
  EXPECT_EQ(difference(*parallel, *merged, Precision::kFloat64, 1e-12, 0), "");
  EXPECT_EQ(merged->graph().nodes_of("Softmax").size(), 1U);
  EXPECT_EQ(merged->graph().nodes_of("Gelu").size(), 1U);
}
TEST(Parallelize, TakesThePairThatLosesNothing) {
  // The first block adds zeros, so the second may as well stand beside it.
  std::vector<Remark> remarks;
  const auto original = model_from_text(net(kFour));
  auto model = original->clone();
  const auto changed = run_pass(kPass, *model, {{"pairs", "1"}}, &remarks);
  ASSERT_TRUE(changed && *changed);
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_NE(remarks[0].reason.find("blocks 0 and 1"), std::string::npos) << remarks[0].reason;
  EXPECT_EQ(difference(*original, *model, Precision::kFloat64, 1e-12, 0), "");
}
TEST(Parallelize, AsManyAsTheErrorAllows) {
  for (const auto& [limit, pairs] : std::map<std::string, std::size_t>{{"1e-9", 1}, {"1000", 2}}) {
    std::vector<Remark> remarks;
    auto model = model_from_text(net(kFour));
    ASSERT_TRUE(run_pass(kPass, *model, {{"max-error", limit}}, &remarks));
    EXPECT_EQ(std::count_if(remarks.begin(), remarks.end(),
                            [](const Remark& remark) { return remark.kind == Remark::Kind::kApplied; }),
              static_cast<std::ptrdiff_t>(pairs));
  }
}
TEST(Parallelize, LeavesRoomForAllPairsWanted) {
  // Blocks 1 and 2 would be best, but then 0 and 3 had no partner.
  const std::string nodes = feed_forward("x", "x", "x1", "0") + feed_forward("x1", "x1", "x2", "1", "none") +
                            feed_forward("x2", "x2", "x3", "2", "none") + feed_forward("x3", "x3", "y", "3");
  std::vector<Remark> remarks;
  auto model = model_from_text(net(nodes));
  ASSERT_TRUE(run_pass(kPass, *model, {{"pairs", "2"}, {"rescore", "false"}}, &remarks));
  EXPECT_EQ(remarks.size(), 2U);
}
TEST(Parallelize, PairsByIndex) {
  expect_rewrite(kPass, net(kFour),
                 net(feed_forward("x", "x", "x1", "0", "none") + feed_forward("x1", "x1", "x2", "1") +
                     feed_forward("x1", "x2", "x3", "2") + feed_forward("x3", "x3", "y", "3")),
                 {{"which", "1"}}, kLossyRewrite);
  expect_error(kPass, net(kFour), "cannot be made parallel", {{"which", "3"}});
  expect_error(kPass, net(kFour), "two pairs", {{"which", "0;1"}});
  expect_error(kPass, net(kFour), "no index", {{"which", "last"}});
}

TEST(Parallelize, KeepsStreamsThatOthersRead) {
  expect_unchanged(kPass,
                   net(feed_forward("x", "x", "x1", "0") + feed_forward("x1", "x1", "y", "1") + "z = Identity(x1)",
                       "double[B, S, 4] y, double[B, S, 4] z"),
                   {{"pairs", "1"}});
}
TEST(Parallelize, KeepsPostNormBlocks) {
  const auto post = [](const std::string& in, const std::string& out, const std::string& n) {
    return "h" + n + " = MatMul(" + in + ", u" + n + ") a" + n + " = Gelu(h" + n + ") f" + n + " = MatMul(a" + n +
           ", d" + n + ") r" + n + " = Add(" + in + ", f" + n + ") " + out + " = LayerNormalization(r" + n + ", s, b) ";
  };
  expect_unchanged(kPass, net(post("x", "x1", "0") + post("x1", "y", "1")), {{"pairs", "1"}});
}
TEST(Parallelize, KeepsOtherLayersAndSingleBlocks) {
  expect_unchanged(kPass, net(attention("x", "x", "x1", "w") + feed_forward("x1", "x1", "y", "0")), {{"pairs", "1"}});
  expect_unchanged(kPass, net(feed_forward("x", "x", "y", "0")), {{"pairs", "1"}});
}

}  // namespace
}  // namespace onnxfold::test::parallelize_test
