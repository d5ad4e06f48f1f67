#include "exec/stepper.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::stepper_test {
namespace {

constexpr const char* kModel = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N] x) => (float[N] y) <float[1] two = {2}, float[1] three = {3}> {
  a = Mul(x, two)
  s = Add(three, two)
  b = Mul(a, s)
  y = Add(b, two)
})";

Datum numbers(const std::vector<double>& values) {
  const Dims dims{static_cast<std::int64_t>(values.size())};
  return Datum(*to_array(*from_doubles(DType::kFloat32, dims, values), Precision::kFloat32));
}

std::vector<double> read(const Stepper& stepper, std::size_t batch, const Model& model, const char* name) {
  const auto datum = stepper.value(batch, *model.graph().find(name));
  return datum && datum->is_array() ? *to_doubles(datum->array) : std::vector<double>{};
}

struct Stepping {
  std::unique_ptr<Model> model = test::model_from_text(kModel);
  std::unique_ptr<Stepper> stepper =
      std::move(*Stepper::create(*model, {{{"x", numbers({1})}}, {{"x", numbers({10, 20})}}}));
  const Node* making(const char* name) const { return model->graph().find(name)->producer(); }
};

TEST(Stepper, StopsBetweenNodesOnEveryBatch) {
  Stepping s;
  ASSERT_TRUE(s.stepper->run_until(s.making("b")));
  EXPECT_EQ(read(*s.stepper, 0, *s.model, "a"), std::vector<double>{2});
  EXPECT_EQ(read(*s.stepper, 1, *s.model, "a"), (std::vector<double>{20, 40}));
  EXPECT_EQ(read(*s.stepper, 1, *s.model, "s"), std::vector<double>{5});
  EXPECT_TRUE(read(*s.stepper, 0, *s.model, "b").empty());
  ASSERT_TRUE(s.stepper->run_until(nullptr));
  EXPECT_EQ(read(*s.stepper, 1, *s.model, "y"), (std::vector<double>{102, 202}));
  EXPECT_TRUE(read(*s.stepper, 0, *s.model, "a").empty());  // nobody needs it any more
}

TEST(Stepper, ReplacedConstantsAndValuesCountFromHereOn) {
  Stepping s;
  ASSERT_TRUE(s.stepper->run_until(s.making("b")));
  ASSERT_TRUE(s.stepper->replace(*s.model->graph().find("two"), numbers({100})));
  ASSERT_TRUE(s.stepper->replace(*s.model->graph().find("s"), numbers({7})));
  ASSERT_TRUE(s.stepper->run_until(nullptr));
  EXPECT_EQ(read(*s.stepper, 0, *s.model, "y"), std::vector<double>{114});
  EXPECT_EQ(read(*s.stepper, 1, *s.model, "y"), (std::vector<double>{240, 380}));
}

TEST(Stepper, AValueMayBeReplacedBeforeItIsComputed) {
  Stepping s;
  ASSERT_TRUE(s.stepper->replace(*s.model->graph().find("s"), numbers({1})));
  ASSERT_TRUE(s.stepper->run_until(nullptr));
  EXPECT_EQ(read(*s.stepper, 0, *s.model, "y"), std::vector<double>{4});
  EXPECT_EQ(read(*s.stepper, 1, *s.model, "y"), (std::vector<double>{22, 42}));
}

TEST(Stepper, AForkGoesItsOwnWay) {
  Stepping s;
  ASSERT_TRUE(s.stepper->run_until(s.making("b")));
  for (const double two : {100.0, 1000.0}) {
    const auto fork = s.stepper->fork();
    ASSERT_TRUE(fork->replace(*s.model->graph().find("two"), numbers({two})));
    ASSERT_TRUE(fork->run_until(nullptr));
    EXPECT_EQ(read(*fork, 0, *s.model, "y"), std::vector<double>{10 + two});
    EXPECT_EQ(read(*fork, 1, *s.model, "y"), (std::vector<double>{100 + two, 200 + two}));
  }
  const auto late = s.stepper->fork();
  ASSERT_TRUE(s.stepper->replace(*s.model->graph().find("a"), numbers({0})));
  ASSERT_TRUE(s.stepper->run_until(nullptr));
  EXPECT_EQ(read(*s.stepper, 0, *s.model, "y"), std::vector<double>{2});
  ASSERT_TRUE(late->run_until(nullptr));
  EXPECT_EQ(read(*late, 0, *s.model, "y"), std::vector<double>{12});
}

TEST(Stepper, InputsAreChecked) {
  const auto model = test::model_from_text(kModel);
  EXPECT_FALSE(Stepper::create(*model, {{{"z", numbers({1})}}}));
}

}  // namespace
}  // namespace onnxfold::stepper_test
