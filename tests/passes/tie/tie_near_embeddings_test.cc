#include <gmock/gmock.h>

#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test::tie_near_embeddings_test {
namespace {

const std::string kTable = "float[4,2] e = {1, 2, 3, 4, 5, 6, 7, 8}";

std::string net(const std::string& weights, const std::string& head, const std::string& more = "") {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (int64[N] t) => (float[N,M] y" + more + ") <" + weights +
         "> { g0 = Gather(e, t) h = Tanh(g0) " + head + " }";
}

TEST(TieNearEmbeddings, WithinATolerance) {
  const std::string text = net(kTable + ", float[2,4] w = {1, 3, 5, 7, 2, 4, 6.01, 8}", "y = MatMul(h, w)");
  expect_unchanged("tie-near-embeddings", text, {{"tolerance", "0.001"}});
  const auto model = model_from_text(text);
  std::vector<Remark> remarks;
  ASSERT_TRUE(*run_pass("tie-near-embeddings", *model, {{"tolerance", "0.002"}}, &remarks));
  EXPECT_THAT(remarks[0].reason, testing::HasSubstr("within 0.0013"));
  // Same layout.
  const auto same =
      model_from_text(net(kTable + ", float[4,2] w = {1, 2, 3, 4, 5, 6.01, 7, 8}", "y = Gemm <transB = 1> (h, w)"));
  ASSERT_TRUE(*run_pass("tie-near-embeddings", *same, {{"tolerance", "0.002"}}));
  EXPECT_EQ(same->graph().initializers().size(), 1U);
}
}  // namespace
}  // namespace onnxfold::test::tie_near_embeddings_test
