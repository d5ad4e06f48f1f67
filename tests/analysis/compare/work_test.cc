#include "analysis/compare/work.h"

#include <gtest/gtest.h>

#include "analysis/calibrate/dataset.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::work_test {
namespace {

using test::model_from_text;

std::optional<std::int64_t> macs(const Model& model) {
  const Dataset data = *generate_dataset(model, 0);
  const auto count = count_macs(model, data.batches.front());
  EXPECT_TRUE(count) << (count ? "" : count.error().message);
  return count ? *count : std::nullopt;
}

TEST(Work, ProductsAndConvolutions) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[2, 3, 4] x, float[1, 4, 5, 5] i, float[2, 6] r) => (float[2, 3, 6] y, float[1, 8, 3, 3] c, float[5, 6] z)
    <float[4, 6] w = {}, float[8, 2, 3, 3] k = {}, float[2, 5] v = {}> {
      y = MatMul(x, w) c = Conv<group = 2>(i, k) z = Gemm<transA = 1>(v, r) })");
  EXPECT_EQ(macs(*model), 2 * 3 * 4 * 6 + 8 * 9 * 2 * 9 + 5 * 6 * 2);
  EXPECT_EQ(count_parameters(*model), 24 + 144 + 10);
}

TEST(Work, AttentionCountsBothProducts) {
  const auto model = model_from_text(R"(<ir_version: 11, opset_import: ["": 23]>
    g (float[1, 2, 5, 4] q, float[1, 2, 7, 4] k, float[1, 2, 7, 4] v) => (float[1, 2, 5, 4] y) {
      y = Attention(q, k, v) })");
  EXPECT_EQ(macs(*model), 2 * 2 * 5 * 7 * 4);
}

TEST(Work, InnerGraphsWithProductsAreNotCounted) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[2, 2] x, bool[1] c) => (float[2, 2] y) <float[2, 2] w = {}> {
      y = If(c) <then_branch = t () => (float[2, 2] a) { a = MatMul(x, w) },
                 else_branch = e () => (float[2, 2] b) { b = Identity(x) }> })");
  EXPECT_EQ(macs(*model), std::nullopt);
}

TEST(Work, LowBitWeightsCountTheirOwnElements) {
  const auto model = model_from_text(R"(<ir_version: 9, opset_import: ["": 21, "com.microsoft": 1]>
    g (float[2, 32] x) => (float[2, 8] y, float[2, 4] z)
    <uint8[8, 1, 16] b = {}, float[8] s = {}, int8[32, 4] q = {}, float[4] t = {}> {
      y = com.microsoft.MatMulNBits<K = 32, N = 8, bits = 4, block_size = 32>(x, b, s)
      w = DequantizeLinear<axis = 1>(q, t) z = MatMul(x, w) })");
  EXPECT_EQ(count_parameters(*model), 32 * 8 + 32 * 4);
  EXPECT_EQ(macs(*model), 2 * 32 * 8 + 2 * 32 * 4);
}

}  // namespace
}  // namespace onnxfold::work_test
