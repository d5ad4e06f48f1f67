#include <gtest/gtest.h>

#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test::untie_test {
namespace {

const std::string kTable = "float[4,2] e = {1, 2, 3, 4, 5, 6, 7, 8}";
const std::string kTurned = "float[2,4] w = {1, 3, 5, 7, 2, 4, 6, 8}";

std::string net(const std::string& weights, const std::string& head, const std::string& more = "") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (int64[N] t) => (float[N,M] y" + more + ") <" + weights +
         "> { g0 = Gather(e, t) h = Tanh(g0) " + head + " }";
}

TEST(Untie, UndoesTying) {
  for (const std::string head : {"y = MatMul(h, w)", "y = Gemm(h, w)"}) {
    const auto original = model_from_text(net(kTable + ", " + kTurned, head));
    const auto model = original->clone();
    ASSERT_TRUE(*run_pass("tie-embeddings", *model));
    EXPECT_EQ(model->graph().initializers().size(), 1U);
    ASSERT_TRUE(*run_pass("untie", *model));
    EXPECT_EQ(model->graph().initializers().size(), 2U);
    EXPECT_EQ(difference(*original, *model, Precision::kFloat32, 0), "");
    EXPECT_FALSE(*run_pass("untie", *model));
  }
}
TEST(Untie, OtherReadersKeepTheTable) {
  expect_unchanged("untie", net(kTable + ", " + kTurned, "y = MatMul(h, w)"));
  expect_unchanged("untie", net(kTable, "z = ReduceSum <keepdims = 0> (e) y = Mul(h, z)"));
}
}  // namespace
}  // namespace onnxfold::test::untie_test
