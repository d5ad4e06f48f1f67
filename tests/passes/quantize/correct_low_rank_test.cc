#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/calibrated_run.h"

namespace onnxfold::correct_low_rank_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_passes;

// Inputs in few directions, so that data say what matters.
Dataset rows(std::int64_t count) {
  std::vector<double> numbers(static_cast<std::size_t>(count * 64));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::size_t row = i / 64, channel = i % 64;
    numbers[i] = std::sin(static_cast<double>(row) * 1.7 + static_cast<double>(channel % 6)) +
                 0.1 * std::sin(static_cast<double>(i * i % 7919));
  }
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {count, 64}, numbers), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(count);
  return data;
}

std::string graph(const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (float[128, 64] x) => (float[128, 48] "
         "y) "
         "<float[64, 64] u = {}, float[64, 48] v = {}, float[64] c = {}, float[48] d = {}> { " +
         nodes + " }";
}

const RecipeStep kThreeBits{"rtn", {{"bits", "3"}, {"block", "32"}}, {}};
const RecipeStep kPair{"correct-low-rank", {{"rank", "4"}}, {}};

TEST(CorrectLowRank, TheModelComesNearer) {
  const Dataset data = rows(128);
  for (const char* form : {"matmulnbits", "dequantizelinear"}) {
    RecipeStep quantize = kThreeBits;
    quantize.options["form"] = form;
    for (const char* nodes :
         {"h = MatMul(x, u) r = Relu(h) y = MatMul(r, v)", "h = Gemm(x, u, c) r = Relu(h) y = Gemm(r, v, d)",
          "h = MatMul(x, u) b = Add(h, c) r = Relu(b) y = MatMul(r, v)"}) {
      const auto plain = run_passes({quantize}, graph(nodes), &data);
      const auto original = first_output(*test::model_from_text(graph(nodes)), data);
      const double before = relative_distance(first_output(*plain.model, data), original);
      const auto paired = run_passes({quantize, kPair}, graph(nodes), &data);
      ASSERT_TRUE(paired.changed) << paired.changed.error().message;
      EXPECT_TRUE(*paired.changed) << nodes;
      EXPECT_EQ(paired.model->graph().outputs()[0]->name(), "y");
      EXPECT_LT(relative_distance(first_output(*paired.model, data), original), 0.7 * before) << nodes;
      // Without data less is won: the residual of rounding is nearly white.
      const auto blind = run_passes({quantize, kPair}, graph(nodes), nullptr);
      EXPECT_TRUE(blind.did());
      EXPECT_LT(relative_distance(first_output(*blind.model, data), original), before) << nodes;
    }
  }
}

TEST(CorrectLowRank, StoredInFloat16BehindACastOrInFloat32) {
  const Dataset data = rows(128);
  const auto half = run_passes({kThreeBits, kPair}, graph("y = MatMul(x, v)"), &data);
  EXPECT_EQ(half.model->graph().nodes_of("Cast").size(), 2U);
  const auto full = run_passes({kThreeBits, {"correct-low-rank", {{"rank", "4"}, {"store", "float32"}}, {}}},
                               graph("y = MatMul(x, v)"), &data);
  EXPECT_EQ(full.model->graph().nodes_of("Cast").size(), 0U);
  EXPECT_EQ(full.model->graph().nodes_of("MatMul").size(), 2U);
}

// All rows are about the same, and the error of one is taken from them: with the error of the others mended it stays.
TEST(CorrectLowRank, KeepsNothingThatTakesTheOutputsAway) {
  Dataset data = rows(128);
  std::vector<double> numbers(128 * 64);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = std::sin(static_cast<double>(i % 64)) + 0.01 * std::sin(static_cast<double>(i * i % 7919));
  }
  data.batches[0]["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {128, 64}, numbers), Precision::kFloat32));
  const std::string both =
      "i = Constant<value_ints = [0]>() f = Gather(x, i) h = MatMul(x, u) k = MatMul(f, u) r = Sub(h, k) "
      "y = MatMul(r, v)";
  const auto run =
      run_passes({{"rtn", {{"bits", "3"}, {"block", "32"}, {"include", "u"}}, {}}, kPair}, graph(both), &data);
  ASSERT_TRUE(run.changed) << run.changed.error().message;
  EXPECT_TRUE(run.says("the outputs go away"));
  EXPECT_TRUE(run.model->graph().find("h_low_rank") == nullptr);
}

TEST(CorrectLowRank, NearMisses) {
  const Dataset data = rows(128);
  EXPECT_FALSE(run_passes({kPair}, graph("y = MatMul(x, v)"), &data).did());
  // A pair as large as the weight; a product that is not quantized.
  EXPECT_FALSE(
      run_passes({kThreeBits, {"correct-low-rank", {{"rank", "48"}}, {}}}, graph("y = MatMul(x, v)"), &data).did());
  const auto one = run_passes({{"rtn", {{"bits", "3"}, {"exclude", "v"}}, {}}, kPair},
                              graph("h = MatMul(x, u) y = MatMul(h, v)"), &data);
  EXPECT_EQ(one.model->graph().nodes_of("MatMul").size(), 3U);
}

}  // namespace
}  // namespace onnxfold::correct_low_rank_test
