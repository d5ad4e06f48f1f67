#include "converter/bisect.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::bisect_test {
namespace {

const char* const kModel = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[4, 64] x) => (float[4, 32] y)
  <float[64, 64] w1 = {}, float[64, 32] w2 = {}> {
    i = Identity(x) h = MatMul(i, w1) a = Relu(h) y = MatMul(a, w2) })";

TEST(Bisect, NamesThePassAndTheFirstValueItMoves) {
  const auto before = test::model_from_text(kModel);
  const Recipe recipe = {
      "test", "", {{"remove-identity", {}, {}}, {"rtn", {{"include", "w2"}}, {}}, {"remove-dead-nodes", {}, {}}}};
  ProofOptions options;
  options.gates.max_rel_l2 = 1e-4;
  const auto culprit = bisect(*before, recipe, *generate_dataset(*before, 0), options, {});
  ASSERT_TRUE(culprit) << culprit.error().message;
  EXPECT_EQ(culprit->pass, "rtn");
  EXPECT_NE(culprit->divergence.find("'y'"), std::string::npos) << culprit->divergence;
  EXPECT_NE(culprit->why.find("max-rel-l2"), std::string::npos) << culprit->why;
}

TEST(Bisect, TheFirstOfTwoWhenOneIsEnough) {
  const auto before = test::model_from_text(kModel);
  const Recipe recipe = {"test", "", {{"rtn", {{"include", "w1"}}, {}}, {"rtn", {{"include", "w2"}}, {}}}};
  ProofOptions options;
  options.gates.max_rel_l2 = 1e-4;
  const auto culprit = bisect(*before, recipe, *generate_dataset(*before, 0), options, {});
  ASSERT_TRUE(culprit) << culprit.error().message;
  EXPECT_EQ(culprit->run, 1);
  EXPECT_NE(culprit->divergence.find("'h'"), std::string::npos) << culprit->divergence;
}

TEST(Bisect, AResultThatPassesIsAnError) {
  const auto before = test::model_from_text(kModel);
  const Recipe recipe = {"test", "", {{"remove-identity", {}, {}}}};
  const auto culprit = bisect(*before, recipe, *generate_dataset(*before, 0), {}, {});
  EXPECT_FALSE(culprit);
}

}  // namespace
}  // namespace onnxfold::bisect_test
