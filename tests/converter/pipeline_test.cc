#include "converter/pipeline.h"

#include <gmock/gmock.h>

#include "ir/dump.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::pipeline_test {
namespace {

constexpr const char* kIdentities = R"(
  <ir_version: 10, opset_import: ["" : 21]>
  agraph (float[2,3] x) => (float[2,3] y) {
    a = Identity(x)
    b = Identity(a)
    unused = Relu(b)
    y = Relu(b)
  })";

Recipe recipe_of(std::vector<RecipeStep> steps) { return {"test", "", std::move(steps)}; }

TEST(Pipeline, RunsPassesInOrderAndCountsNodes) {
  const auto model = test::model_from_text(kIdentities);
  const auto result = run_pipeline(*model, recipe_of({{"remove-identity", {}, {}}, {"remove-dead-nodes", {}, {}}}));
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result->runs.size(), 2U);
  EXPECT_EQ(result->runs[0].nodes_before, 4);
  EXPECT_EQ(result->runs[1].nodes_after, 1);
  EXPECT_TRUE(result->changed);
  EXPECT_EQ(result->exactness, Exactness::kExact);
}

TEST(Pipeline, NodesOfOneNameAreToldApart) {
  const auto model =
      test::model_from_text(R"(<ir_version: 10, opset_import: ["" : 21]> agraph (float[2] x) => (float[2] y) {
    [n] a = Identity(x) [n] b = Relu(a) [n_2] c = Abs(b) [n] y = Relu(c) })");
  ASSERT_TRUE(run_pipeline(*model, recipe_of({{"remove-identity", {}, {}}})));
  std::vector<std::string> names;
  for (const Node* node : model->graph().nodes()) names.push_back(node->name);
  EXPECT_THAT(names, testing::ElementsAre("n", "n_2", "n_3"));
}

TEST(Pipeline, BodiesThatAChangeOfTheOpsetMadeAnewAreVisited) {
  const auto model = test::model_from_text(R"(<ir_version: 10, opset_import: ["" : 17]>
    agraph (float[2,64] x) => (float[2,64] y) <int64 n = {3}, bool c = {1}, float[64,64] a = {}, float[64,64] b = {}> {
      h = MatMul(x, a)
      y = Loop(n, c, h) <body = d (int64 i, bool k, float[2,64] s) => (bool l, float[2,64] t) {
        l = Identity(k) t = MatMul(s, b) }>
    })");
  ASSERT_TRUE(run_pipeline(*model, recipe_of({{"rtn", {{"form", "dequantizelinear"}, {"bits", "8"}}, {}}})));
  EXPECT_GE(model->graph().opset(), 21);
  for (const std::string name : {"a", "b"}) EXPECT_EQ(model->graph().find(name), nullptr) << name << " is still float";
}

TEST(Pipeline, AGroupRunsUntilNothingChanges) {
  const auto model = test::model_from_text(kIdentities);
  const auto result =
      run_pipeline(*model, recipe_of({{"", {}, {{"remove-identity", {}, {}}, {"remove-dead-nodes", {}, {}}}}}));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_GE(result->runs.size(), 4U);
  EXPECT_FALSE(result->runs.back().changed);
  EXPECT_EQ(result->count, 2);
}

TEST(Pipeline, AGroupThatDoesNotSettleIsStoppedAndNoted) {
  const auto model = test::model_from_text(kIdentities);
  PipelineOptions options;
  options.max_rounds = 1;
  const auto result = run_pipeline(*model, recipe_of({{"", {}, {{"remove-identity", {}, {}}}}}), options);
  ASSERT_TRUE(result) << result.error().message;
  ASSERT_EQ(result->remarks.size(), 1U);
  EXPECT_THAT(result->remarks[0].reason, testing::HasSubstr("after 1 rounds"));
}

TEST(Pipeline, NothingToDoChangesNothing) {
  const auto model = test::model_from_text(
      "<ir_version: 10, opset_import: [\"\" : 21]> agraph (float[2] x) => (float[2] y) { y = Relu(x) }");
  const std::string before = dump(*model);
  const auto result = run_pipeline(*model, recipe_of({{"remove-identity", {}, {}}}));
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_FALSE(result->changed);
  EXPECT_EQ(dump(*model), before);
}

TEST(Pipeline, ErrorsSayWhichPassAndWhere) {
  const auto model = test::model_from_text(kIdentities);
  const auto unknown = run_pipeline(*model, recipe_of({{"remove-identity", {}, {}}, {"nothing", {}, {}}}));
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message, testing::StartsWith("nothing (pass 2 of 2): "));
}

TEST(Pipeline, CallsBackAfterEveryChange) {
  const auto model = test::model_from_text(kIdentities);
  std::vector<std::string> seen;
  PipelineOptions options;
  options.after_changed = [&](const std::string& pass, const Model&) -> Status {
    seen.push_back(pass);
    return fail(Code::kGate, "stop here");
  };
  const auto result =
      run_pipeline(*model, recipe_of({{"remove-dead-nodes", {}, {}}, {"remove-identity", {}, {}}}), options);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, Code::kGate);
  EXPECT_EQ(seen, std::vector<std::string>{"remove-dead-nodes"});
}

}  // namespace
}  // namespace onnxfold::pipeline_test
