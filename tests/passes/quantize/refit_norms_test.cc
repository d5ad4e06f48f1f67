#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/calibrated_run.h"

namespace onnxfold::refit_norms_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_passes;

Dataset rows(std::int64_t count) {
  std::vector<double> numbers(static_cast<std::size_t>(count * 64));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = std::sin(static_cast<double>(i * i % 9973)) + 0.5 * std::cos(static_cast<double>(i % 64));
  }
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {count, 64}, numbers), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(count);
  return data;
}

std::string graph(const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 23, \"com.microsoft\" : 1]> g (float[256, 64] x) => (float[256, 64] "
         "y) "
         "<float[64, 64] u = {}, float[64, 64] v = {}, float[64] g = {}, float[64] b = {}, float[1] two = {2}, "
         "float[1] eps = {0.00001}, int64[1] axes = {-1}> { " +
         nodes + " }";
}

const RecipeStep kTwoBits{"rtn", {{"bits", "2"}, {"block", "64"}}, {}};
const RecipeStep kRefit{"refit-norms", {}, {}};

TEST(RefitNorms, TheModelComesNearerToWhatItWas) {
  const Dataset data = rows(256);
  for (const char* nodes :
       {"h = MatMul(x, u) r = Add(h, x) y = LayerNormalization(r, g, b)",
        "h = MatMul(x, u) r = Add(h, x) n = LayerNormalization(r, g, b) m = MatMul(n, v) s = Add(n, m) y = "
        "LayerNormalization(s, g, b)",
        "h = MatMul(x, u) r = Add(h, x) y = LayerNormalization(r, g)",
        "h = MatMul(x, u) r = Add(h, x) y = RMSNormalization<axis=-1>(r, g)",
        "h = MatMul(x, u) r = Add(h, x) sq = Pow(r, two) ms = ReduceMean(sq, axes) me = Add(ms, eps) sd = Sqrt(me) "
        "n = Div(r, sd) y = Mul(n, g)"}) {
    const auto plain = run_passes({kTwoBits}, graph(nodes), &data);
    const auto refitted = run_passes({kTwoBits, kRefit}, graph(nodes), &data);
    ASSERT_TRUE(refitted.changed) << refitted.changed.error().message;
    EXPECT_TRUE(*refitted.changed) << nodes;
    const auto original = first_output(*test::model_from_text(graph(nodes)), data);
    EXPECT_LT(relative_distance(first_output(*refitted.model, data), original),
              0.97 * relative_distance(first_output(*plain.model, data), original))
        << nodes;
  }
}

TEST(RefitNorms, NormsThatShareAGainGetTheirOwn) {
  const Dataset data = rows(256);
  const auto run = run_passes({kTwoBits, kRefit},
                              graph("h = MatMul(x, u) r = Add(h, x) n = LayerNormalization(r, g, b) m = MatMul(n, v) "
                                    "s = Add(n, m) y = LayerNormalization(s, g, b)"),
                              &data);
  const auto norms = run.model->graph().nodes_of("LayerNormalization");
  ASSERT_EQ(norms.size(), 2U);
  EXPECT_NE(norms[0]->input(1), norms[1]->input(1));
}

// The output holds the difference of two equal norms; one has a gain that is computed and stays as it is.
TEST(RefitNorms, KeepsNothingThatTakesTheOutputsAway) {
  const Dataset data = rows(256);
  const auto run = run_passes({kTwoBits, kRefit},
                              graph("h = MatMul(x, u) r = Add(h, x) n = LayerNormalization(r, g, b) q = Neg(g) k = "
                                    "Neg(q) o = LayerNormalization(r, k, b) d = Sub(n, o) y = Add(d, x)"),
                              &data);
  ASSERT_TRUE(run.changed) << run.changed.error().message;
  EXPECT_FALSE(*run.changed);
  EXPECT_TRUE(run.says("the outputs go away"));
}

TEST(RefitNorms, NearMisses) {
  const Dataset data = rows(256);
  const std::string text = graph("h = MatMul(x, u) r = Add(h, x) y = LayerNormalization(r, g, b)");
  EXPECT_FALSE(run_passes({kTwoBits, kRefit}, text, nullptr).changed);
  EXPECT_FALSE(run_passes({kRefit}, text, &data).did());
  // Nothing in front of the norm changed.
  EXPECT_FALSE(run_passes({kTwoBits, kRefit}, graph("n = LayerNormalization(x, g, b) y = MatMul(n, u)"), &data).did());
  // A gain that is computed.
  EXPECT_FALSE(run_passes({kTwoBits, kRefit},
                          graph("q = Mul(g, two) w = ReduceMax<keepdims=0>(x) z = Mul(q, w) h = MatMul(x, u) y = "
                                "LayerNormalization(h, z, b)"),
                          &data)
                   .did());
}

}  // namespace
}  // namespace onnxfold::refit_norms_test
