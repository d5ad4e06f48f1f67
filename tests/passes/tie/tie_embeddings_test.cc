#include <gmock/gmock.h>

#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test::tie_embeddings_test {
namespace {

const std::string kTable = "float[4,2] e = {1, 2, 3, 4, 5, 6, 7, 8}";
const std::string kTurned = "float[2,4] w = {1, 3, 5, 7, 2, 4, 6, 8}";

std::string net(const std::string& weights, const std::string& head, const std::string& more = "") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (int64[N] t) => (float[N,M] y" + more + ") <" + weights +
         "> { g0 = Gather(e, t) h = Tanh(g0) " + head + " }";
}

TEST(TieEmbeddings, ProductsReadTheTable) {
  expect_rewrite("tie-embeddings", net(kTable + ", " + kTurned, "y = MatMul(h, w)"),
                 net(kTable, "w = Transpose <perm = [1, 0]> (e) y = MatMul(h, w)"));
}
TEST(TieEmbeddings, GemmsToo) {
  const std::string bias = ", float[4] b = {1, 2, 3, 4}";
  expect_rewrite("tie-embeddings", net(kTable + ", " + kTurned + bias, "y = Gemm(h, w, b)"),
                 net(kTable + bias, "w = Transpose <perm = [1, 0]> (e) y = Gemm(h, w, b)"));
}
TEST(TieEmbeddings, SquareTables) {
  const std::string square = "float[4,4] e = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}";
  expect_rewrite("tie-embeddings",
                 net(square + ", float[4,4] w = {1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 4, 8, 12, 16}",
                     "y = Gemm <transB = 1> (h, w)"),
                 net(square, "w = Transpose <perm = [1, 0]> (e) y = Gemm <transB = 1> (h, w)"));
}
TEST(TieEmbeddings, OtherNumbersStay) {
  expect_unchanged("tie-embeddings",
                   net(kTable + ", float[2,4] w = {1, 3, 5, 7, 2, 4, 6.000001, 8}", "y = MatMul(h, w)"));
  expect_unchanged("tie-embeddings", net(kTable + ", float[2,4] w = {1, 2, 3, 4, 5, 6, 7, 8}", "y = MatMul(h, w)"));
  expect_unchanged(
      "tie-embeddings",
      net("float[4,2] e = {0, 2, 3, 4, 5, 6, 7, 8}, float[2,4] w = {-0.0, 3, 5, 7, 2, 4, 6, 8}", "y = MatMul(h, w)"));
}

TEST(TieEmbeddings, HeadsThatOthersReadStay) {
  expect_unchanged(
      "tie-embeddings",
      net(kTable + ", " + kTurned, "z = MatMul(h, w) y = Add(z, v) v = ReduceMax <axes = [0], keepdims = 0> (w)"));
  expect_unchanged("tie-embeddings",
                   "<ir_version: 8, opset_import: [\"\": 17]> g (int64[N] t, float[2,4] w) => (float[N,4] y) <" +
                       kTable + ", " + kTurned + "> { g0 = Gather(e, t) y = MatMul(g0, w) }");
}
TEST(TieEmbeddings, TablesAreWhatGatherReads) {
  const std::string pair = "float[4,2] a = {1, 2, 3, 4, 5, 6, 7, 8}, " + kTurned;
  const std::string text = "<ir_version: 8, opset_import: [\"\": 17]> g (float[N,4] x) => (float[N,4] y) <" + pair +
                           "> { h = MatMul(x, a) y = MatMul(h, w) }";
  expect_unchanged("tie-embeddings", text);
  const auto model = model_from_text(text);
  ASSERT_TRUE(*run_pass("tie-embeddings", *model, {{"scope", "all"}}));
  EXPECT_EQ(model->graph().initializers().size(), 1U);
  EXPECT_EQ(difference(*model_from_text(text), *model, Precision::kFloat32, 0), "");
}
}  // namespace
}  // namespace onnxfold::test::tie_embeddings_test
