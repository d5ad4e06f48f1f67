#include <gmock/gmock.h>

#include <algorithm>

#include "tests/passes/tie/rolled.h"

namespace onnxfold::test::rolled_obstacle_test {
namespace {

using testing::HasSubstr;

TEST(RolledObstacle, SaysThatNothingRepeats) {
  for (const auto& [text, expected] : {std::pair(stack({0}), 1U), std::pair(stack({0, 1, 2}), 0U)}) {
    std::vector<Remark> remarks;
    ASSERT_TRUE(run_pass("roll-layers", *model_from_text(text), {}, &remarks));
    const auto says = [](const Remark& remark) {
      return remark.reason.find("equal but for their weights") != std::string::npos;
    };
    EXPECT_EQ(std::count_if(remarks.begin(), remarks.end(), says), expected);
  }
}
TEST(RolledObstacle, SaysWhichNodesDiffer) {
  std::string text = stack({0, 1});
  text.replace(text.find("Relu(h1)"), 8, "Sigmoid(h1)");
  EXPECT_THAT(said_of(text),
              HasSubstr("Sigmoid of output 'a1' stands where Relu of output 'a0' does in an earlier block"));
}
TEST(RolledObstacle, SaysWhichWidthsDiffer) {
  const std::string text = model(
      "float[N,4] x", "float[N,4] y", "float[4,6] u0 = {}, float[6,4] d0 = {}, float[4,7] u1 = {}, float[7,4] d1 = {}",
      "a0 = MatMul(x, u0) b0 = Tanh(a0) c0 = Sigmoid(b0) e0 = Neg(c0) f0 = MatMul(e0, d0) s0 = Add(x, f0) "
      "a1 = MatMul(s0, u1) b1 = Tanh(a1) c1 = Sigmoid(b1) e1 = Neg(c1) f1 = MatMul(e1, d1) y = Add(s0, f1)");
  EXPECT_THAT(said_of(text),
              HasSubstr("output 'e1' gives float[N,7], Neg of output 'e0' in an earlier block gives float[N,6]"));
}
TEST(RolledObstacle, SaysWhatKeepsTheFirstBlockOut) {
  std::string text = stack({0, 1, 2, 3});
  text.replace(text.find("Relu(h0)"), 8, "Sigmoid(h0)");
  EXPECT_THAT(said_of(text), HasSubstr("what is before these blocks is none of them: Relu"));
  EXPECT_THAT(said_of(stack({0, 1, 2, 3})), testing::Not(HasSubstr("before these blocks")));
}

}  // namespace
}  // namespace onnxfold::test::rolled_obstacle_test
