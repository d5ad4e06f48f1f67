#include "passes/rewrite.h"

#include <gtest/gtest.h>

#include "ir/verify.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::rewrite_test {
namespace {

using test::model_from_text;

constexpr const char* kChain = R"(<ir_version: 8, opset_import: ["": 17]>
  g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) <float[3] w = {1, 2, 3}, int64[2] i = {4, 5}> {
    a = Relu(x)
    b = Mul(a, w)
    y = Neg(b)
    z = Abs(b)
  })";

Node& only(Graph& graph, std::string_view op) { return *graph.nodes_of(op).front(); }

TEST(Rewrite, SoleProducerNeedsOneUse) {
  const auto model = model_from_text(kChain);
  Graph& graph = model->graph();
  EXPECT_NE(sole_producer(only(graph, "Mul").input(0), "Relu"), nullptr);
  EXPECT_EQ(sole_producer(only(graph, "Mul").input(0), "Neg"), nullptr);
  EXPECT_EQ(sole_producer(only(graph, "Neg").input(0), "Mul"), nullptr);  // read twice
  EXPECT_EQ(sole_producer(graph.outputs()[0], "Neg"), nullptr);           // public
  EXPECT_EQ(sole_producer(only(graph, "Relu").input(0), "Relu"), nullptr);
  EXPECT_EQ(sole_producer(nullptr, "Relu"), nullptr);
}

TEST(Rewrite, SoleProducerRefusesCaptured) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (bool c, float[3] x) => (float[3] y) {
      a = Relu(x)
      y = If(c) <then_branch = t () => (float[3] p) { p = Neg(a) },
                 else_branch = e () => (float[3] q) { q = Abs(x) }>
    })");
  EXPECT_EQ(sole_producer(model->graph().nodes_of("Relu").front()->output(), "Relu"), nullptr);
}

TEST(Rewrite, ReadsConstants) {
  const auto model = model_from_text(kChain);
  Graph& graph = model->graph();
  EXPECT_EQ(int_constants(graph.find("i")), (std::vector<std::int64_t>{4, 5}));
  EXPECT_EQ(int_constants(graph.find("w")), std::nullopt);
  EXPECT_EQ(int_constants(graph.find("x")), std::nullopt);
  EXPECT_EQ(scalar_constant(graph.find("w")), std::nullopt);
  Value* one = add_constant(graph, Tensor::scalar(2.5F), "one");
  EXPECT_EQ(scalar_constant(one), 2.5);
}

TEST(Rewrite, ErasesDeadInputsTransitively) {
  const auto model = model_from_text(kChain);
  Graph& graph = model->graph();
  graph.set_output(1, *graph.outputs()[0]->producer()->input(0));
  EXPECT_EQ(only(graph, "Abs").output()->uses().size(), 0U);
  erase_with_dead_inputs(graph, only(graph, "Abs"));
  EXPECT_EQ(graph.node_count(), 3U);  // Mul is still public
  EXPECT_NE(graph.find("w"), nullptr);
  ASSERT_TRUE(verify(*model));
}

TEST(Rewrite, ReplaceKeepsPublicNames) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y) { a = Relu(x)  y = Identity(a) })");
  Graph& graph = model->graph();
  EXPECT_TRUE(replace_and_erase(graph, only(graph, "Identity"), *only(graph, "Relu").output()));
  ASSERT_TRUE(verify(*model));
  EXPECT_EQ(graph.outputs()[0]->name(), "y");
  EXPECT_EQ(graph.outputs()[0]->producer()->op_type(), "Relu");
}

TEST(Rewrite, ReplaceByInputLeavesIdentity) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y) { y = Dropout(x) })");
  Graph& graph = model->graph();
  EXPECT_TRUE(replace_and_erase(graph, only(graph, "Dropout"), *graph.inputs()[0]));
  ASSERT_TRUE(verify(*model));
  EXPECT_EQ(graph.outputs()[0]->name(), "y");
  EXPECT_FALSE(replace_and_erase(graph, only(graph, "Identity"), *graph.inputs()[0]));
}

TEST(RefinedType, TakesWhatEitherKnows) {
  const Type named = Type::tensor(DType::kFloat32, std::vector<Dim>{{std::nullopt, "N", ""}, {}});
  const Type sized = Type::tensor(DType::kFloat32, std::vector<Dim>{{}, {3, "", ""}});
  EXPECT_EQ(to_string(refined_type(named, sized)), to_string(refined_type(sized, named)));
  EXPECT_EQ(refined_type(Type::none(), sized), sized);
  EXPECT_EQ(refined_type(Type::tensor(DType::kFloat32), sized), sized);
}

}  // namespace
}  // namespace onnxfold::rewrite_test
