#include "ir/verify.h"

#include <gtest/gtest.h>

namespace onnxfold::verify_test {
namespace {

const Type kFloats = Type::tensor(DType::kFloat32, std::vector<std::int64_t>{2});

Node* add_unary(Graph& graph, Value* input) {
  return graph.insert(NodeSpec{"Relu", {input}, {{"y", kFloats}}, {}, "", ""});
}

TEST(Verify, AcceptsAnEmptyModel) { EXPECT_TRUE(verify(Model())); }

TEST(Verify, FindsAReadBeforeItsProducer) {
  Model model;
  Node* first = add_unary(model.graph(), model.graph().add_input("x", kFloats));
  Node* second = add_unary(model.graph(), first->output());
  model.graph().set_input(*first, 0, second->output());
  const Status status = verify(model);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::kInternal);
  EXPECT_NE(status.error().message.find("before it is made"), std::string::npos);
}

TEST(Verify, FindsAValueOfASiblingGraph) {
  Model model;
  Model other;
  add_unary(model.graph(), other.graph().add_input("x", kFloats));
  EXPECT_FALSE(verify(model));
}

TEST(Verify, FindsAnInitializerOfAnotherDeclaredType) {
  Model model;
  Value* weight = model.graph().add_initializer("w", Tensor::of<float>({2}, {1, 2}));
  EXPECT_TRUE(verify(model));
  weight->set_type(Type::tensor(DType::kFloat64, std::vector<std::int64_t>{2}));
  EXPECT_FALSE(verify(model));
  weight->set_type(Type::tensor(DType::kFloat32, std::vector<std::int64_t>{3}));
  EXPECT_FALSE(verify(model));
}

TEST(Verify, InnerValuesAreOutOfScopeOutside) {
  Model model;
  Graph& graph = model.graph();
  Value* condition = graph.add_input("c", Type::tensor(DType::kBool));
  auto branch = std::make_unique<Graph>(&graph);
  Node* inner = add_unary(*branch, graph.add_input("x", kFloats));
  branch->add_output(*inner->output());
  NodeSpec spec{"If", {condition}, {{"z", kFloats}}, {}, "", ""};
  spec.attributes.emplace_back("then_branch", std::move(branch));
  graph.insert(std::move(spec));
  EXPECT_TRUE(verify(model));
  add_unary(graph, inner->output());
  EXPECT_FALSE(verify(model));
}

}  // namespace
}  // namespace onnxfold::verify_test
