#include "exec/executor.h"

#include <gmock/gmock.h>

#include "tests/exec/run_op.h"

namespace onnxfold::executor_test {
namespace {

using test::array;
using test::integer;
using testing::ElementsAre;
using testing::HasSubstr;

// y = Transpose(Identity(x)), with the inner value "mid".
std::unique_ptr<Model> small_model() {
  auto model = std::make_unique<Model>();
  model->opset_imports = {{"", 21}};
  Graph& graph = model->graph();
  Value* x = graph.add_input("x", Type::tensor(DType::kFloat32, {Dim{.value = {}, .symbol = "N", .denotation = {}},
                                                                 Dim{.value = 2, .symbol = {}, .denotation = {}}}));
  Node* first = graph.insert({"Identity", {x}, {{"mid", {}, false}}, {}, "", "first"});
  Node* second = graph.insert({"Transpose", {first->output()}, {{"y", {}, false}}, {}, "", "second"});
  graph.add_output(*second->output());
  return model;
}

Result<RunResult> run_small(const Feeds& feeds, ExecutorOptions options = {}) {
  const auto model = small_model();
  OF_ASSIGN(const auto executor, Executor::create(*model, std::move(options)));
  return executor->run(feeds);
}

TEST(Executor, Runs) {
  const auto result = run_small({{"x", array<float>({3, 2}, {1, 2, 3, 4, 5, 6})}});
  ASSERT_TRUE(result.has_value()) << result.error().message;
  test::expect_array<float>(result->outputs, 0, {2, 3}, {1, 3, 5, 2, 4, 6});
  EXPECT_TRUE(result->taps.empty());
}

// Data outlives inputs: a pass may take one away.
TEST(Executor, DataOfAnInputThatIsNoMoreIsLeftAside) {
  EXPECT_TRUE(run_small({{"x", array<float>({1, 2}, {1, 2})}, {"gone", array<float>({1}, {1})}}).has_value());
}

TEST(Executor, NamesTheInputThatIsWrong) {
  const auto message = [](const Feeds& feeds) {
    const auto result = run_small(feeds);
    EXPECT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Code::kInvalidArgument);
    return result.error().message;
  };
  EXPECT_THAT(message({}), AllOf(HasSubstr("\"x\""), HasSubstr("missing")));
  EXPECT_THAT(message({{"x", array<float>({2}, {1, 2})}}), AllOf(HasSubstr("float[N,2]"), HasSubstr("float[2]")));
  EXPECT_THAT(message({{"x", array<float>({1, 3}, {1, 2, 3})}}), HasSubstr("float[1,3]"));
  EXPECT_THAT(message({{"x", array<std::int64_t>({1, 2}, {1, 2})}}), HasSubstr("int64[1,2]"));
  EXPECT_THAT(message({{"z", array<float>({1, 2}, {1, 2})}}), AllOf(HasSubstr("\"z\""), HasSubstr("x")));
}

TEST(Executor, ConvertsFeedsOfTheOtherPrecision) {
  ExecutorOptions options;
  options.precision = Precision::kFloat64;
  const auto result = run_small({{"x", array<float>({1, 2}, {1, 2})}}, options);
  ASSERT_TRUE(result.has_value()) << result.error().message;
  test::expect_array<double>(result->outputs, 0, {2, 1}, {1, 2});
}

TEST(Executor, Taps) {
  ExecutorOptions options;
  options.taps = {"mid", "x"};
  const auto result = run_small({{"x", array<float>({1, 2}, {1, 2})}}, options);
  ASSERT_TRUE(result.has_value()) << result.error().message;
  EXPECT_EQ(result->taps.size(), 2U);
  EXPECT_EQ(result->taps.at("mid").array.dims(), (Dims{1, 2}));
  options.taps = {"nowhere"};
  EXPECT_FALSE(run_small({}, options).has_value());
}

TEST(Executor, SinkSeesValuesAndKeepsNone) {
  const auto model = small_model();
  ExecutorOptions options;
  options.tap_all = true;
  const auto executor = Executor::create(*model, options);
  ASSERT_TRUE(executor.has_value());
  std::vector<std::string> seen;
  const auto result = (*executor)->run({{"x", array<float>({1, 2}, {1, 2})}}, [&](const Value& value, const Datum&) {
    seen.push_back(value.name());
    return Status();
  });
  ASSERT_TRUE(result.has_value());
  EXPECT_THAT(seen, ElementsAre("mid", "y"));
  EXPECT_TRUE(result->taps.empty());
}

TEST(Executor, NamesEveryOperatorItCannotRun) {
  const auto model = small_model();
  Graph& graph = model->graph();
  graph.insert({"Nope", {graph.inputs()[0]}, {{"a", {}, false}}, {}, "com.example", ""});
  graph.insert({"NeverHeard", {graph.inputs()[0]}, {{"b", {}, false}}, {}, "", ""});
  const auto executor = Executor::create(*model);
  ASSERT_FALSE(executor.has_value());
  EXPECT_EQ(executor.error().code, Code::kUnsupported);
  EXPECT_THAT(executor.error().message,
              AllOf(HasSubstr("com.example.Nope (opset 1)"), HasSubstr("NeverHeard (opset 21)")));
  EXPECT_FALSE(supports(*graph.nodes().back()));
  EXPECT_TRUE(supports(*graph.nodes().front()));
}

TEST(Executor, AbsurdSizeIsAnErrorThatNamesTheNode) {
  const auto shape = array<std::int64_t>({2}, {std::int64_t{1} << 40, std::int64_t{1} << 40});
  test::expect_failure(test::run_op("ConstantOfShape", {shape}), Code::kResource, "node_under_test");
}

// A function that calls itself must end in an error, not in a full stack.
TEST(Executor, RecursiveFunctionIsRefused) {
  const auto model = small_model();
  model->opset_imports["f"] = 1;
  auto function = std::make_unique<Function>();
  function->domain = "f";
  function->name = "Again";
  function->opset_imports = {{"f", 1}};
  function->body = std::make_unique<Graph>();
  Value* in = function->body->add_input("i", {});
  Node* call = function->body->insert({"Again", {in}, {{"o", {}, false}}, {}, "f", ""});
  function->body->add_output(*call->output());
  model->functions.push_back(std::move(function));
  model->functions.back()->adopt();
  Graph& graph = model->graph();
  graph.insert({"Again", {graph.inputs()[0]}, {{"r", {}, false}}, {}, "f", ""});
  const auto executor = Executor::create(*model);
  ASSERT_FALSE(executor.has_value());
  EXPECT_THAT(executor.error().message, HasSubstr("nested"));
}

// If inside whose branches read a value of the main graph.
TEST(Executor, SubgraphsReadOuterValues) {
  const auto model = small_model();
  Graph& graph = model->graph();
  Value* x = graph.inputs()[0];
  Value* c = graph.add_input("c", Type::tensor(DType::kBool, std::vector<std::int64_t>{}));
  auto yes = std::make_unique<Graph>(&graph), no = std::make_unique<Graph>(&graph);
  yes->add_output(*yes->insert({"Identity", {x}, {{"t", {}, false}}, {}, "", ""})->output());
  no->add_output(*no->insert({"Transpose", {x}, {{"e", {}, false}}, {}, "", ""})->output());
  std::vector<Attribute> branches;
  branches.emplace_back("then_branch", std::move(yes));
  branches.emplace_back("else_branch", std::move(no));
  Node* choice = graph.insert({"If", {c}, {{"picked", {}, false}}, std::move(branches), "", ""});
  graph.add_output(*choice->output());
  const auto executor = Executor::create(*model);
  ASSERT_TRUE(executor.has_value()) << executor.error().message;
  const auto result = (*executor)->run({{"x", array<float>({1, 2}, {1, 2})}, {"c", array<bool>({}, {false})}});
  ASSERT_TRUE(result.has_value()) << result.error().message;
  test::expect_array<float>(result->outputs, 1, {2, 1}, {1, 2});
}

}  // namespace
}  // namespace onnxfold::executor_test
