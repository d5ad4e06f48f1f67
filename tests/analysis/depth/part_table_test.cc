#include "analysis/depth/part_table.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::part_table_test {
namespace {

using test::model_from_text;

double number(const PartRow& row, const std::string& name) {
  for (const auto& [key, value] : row.numbers) {
    if (key == name && value) return *value;
  }
  ADD_FAILURE() << row.part << " has no " << name;
  return NAN;
}

std::string attention(const std::string& query) {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, T, 8] x) => (float[N, T, 8] y) <float[8, 8] wq = {}, "
         "float[8, 8] wk = {}, float[8, 8] wv = {}, float[8, 8] wo = {}, int64[4] s = {0, 0, 2, 4}, int64[3] m = {0, "
         "0, 8}, "
         "float f = {" +
         query +
         "}> { a = MatMul(x, wq) b = MatMul(x, wk) c = MatMul(x, wv) ar = Reshape(a, s) br = Reshape(b, s) cr = "
         "Reshape(c, "
         "s) q = Transpose<perm = [0, 2, 1, 3]>(ar) k = Transpose<perm = [0, 2, 3, 1]>(br) v = Transpose<perm = [0, 2, "
         "1, "
         "3]>(cr) p = MatMul(q, k) z = Mul(p, f) w = Softmax<axis = -1>(z) o = MatMul(w, v) t = Transpose<perm = [0, "
         "2, 1, "
         "3]>(o) r = Reshape(t, m) y = MatMul(r, wo) }";
}

TEST(PartTable, HeadsWithoutScoresAreUniform) {
  const auto model = model_from_text(attention("0.0"));
  const Dataset data = test::normal_data(4, 6, 8);
  const auto table = measure_attention(*model, data);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->rows.size(), 2U);
  for (const PartRow& row : table->rows) {
    EXPECT_NEAR(number(row, "entropy"), 1, 1e-6);
    EXPECT_NEAR(number(row, "uniform"), 1, 1e-12);
    EXPECT_NEAR(number(row, "first"), 1.0 / 6, 1e-6);
    EXPECT_NEAR(number(row, "peak"), 0, 1e-5);
    EXPECT_NEAR(number(row, "distance"), 35.0 / 18, 1e-5);  // mean of |i - j| over 6 x 6
    EXPECT_THAT(row.use, testing::HasSubstr("prune-heads"));
  }
}

TEST(PartTable, HeadsWithScoresAreNot) {
  const auto model = model_from_text(attention("1.0"));
  const Dataset data = test::normal_data(4, 6, 8);
  const auto table = measure_attention(*model, data);
  ASSERT_TRUE(table);
  for (const PartRow& row : table->rows) EXPECT_LT(number(row, "entropy"), 0.9);
}

const char* const kStream = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[N, T, 8] x) => (float[N, T, 5] logits)
  <float[8, 16] u = {}, float[16, 8] d = {}, float[8, 16] u2 = {}, float[16, 8] d2 = {}, float[8] g1 = {}, float[8] g2 = {},
   float[8] g3 = {}, float[8, 5] h = {}> {
    n1 = LayerNormalization(x, g1) p = MatMul(n1, u) i = Relu(p) o = MatMul(i, d) a = Add(x, o)
    n2 = LayerNormalization(a, g2) q = MatMul(n2, u2) j = Relu(q) r = MatMul(j, d2) b = Add(a, r)
    n3 = LayerNormalization(b, g3) logits = MatMul(n3, h) })";

// The last norm's statistics frozen, the addends' scores add up to the output.
TEST(PartTable, SharesOfThePathsAddUp) {
  const auto model = model_from_text(kStream);
  const Dataset data = test::normal_data(4, 6, 8);
  const auto table = measure_paths(*model, data);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->rows.size(), 3U);
  double shares = 0;
  for (const PartRow& row : table->rows) {
    shares += number(row, "share");
    EXPECT_GT(number(row, "without"), 0) << row.part;  // the original's distance to itself is 0
  }
  EXPECT_NEAR(shares, 1, 1e-5);
}

TEST(PartTable, WithoutAStreamThereAreNoPaths) {
  const auto model = model_from_text(attention("1.0"));
  const Dataset data = test::normal_data(4, 6, 8);
  EXPECT_FALSE(measure_paths(*model, data));
}

TEST(PartTable, HiddenZerosAndChannels) {
  const auto model = model_from_text(kStream);
  const Dataset data = test::normal_data(4, 6, 8);
  const auto table = measure_hidden(*model, data);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->rows.size(), 4U);  // two hidden layers, the stream behind two blocks
  EXPECT_GT(number(table->rows[0], "zeros"), 0.2);
  EXPECT_LT(number(table->rows[0], "needed"), 1 - number(table->rows[0], "zeros"));
  EXPECT_EQ(number(table->rows[2], "zeros"), 0);
}

// White inputs at 4 bits for v of them: relative squared error 2^(-8 / v).
TEST(PartTable, TablesReachTheRateDistortionBound) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, T, 8] x) => (float[N, T, 4] y) <float[8, 4] w = {}> { y = MatMul(x, w) })");
  const Dataset data = test::normal_data(64, 64, 8);
  const auto table = measure_lut(*model, data);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->rows.size(), 1U);
  for (const int slice : {2, 4, 8}) {
    EXPECT_NEAR(number(table->rows[0], "slice" + std::to_string(slice)), std::pow(2.0, -4.0 / slice), 0.02);
  }
}

}  // namespace
}  // namespace onnxfold::part_table_test
