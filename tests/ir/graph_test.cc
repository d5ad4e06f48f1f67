#include "ir/graph.h"

#include <gtest/gtest.h>

#include "ir/model.h"
#include "ir/verify.h"

namespace onnxfold::graph_test {
namespace {

const Type kFloats = Type::tensor(DType::kFloat32, std::vector<std::int64_t>{2});

NodeSpec unary(std::string op, Value* input, std::string output) {
  return NodeSpec{std::move(op), {input}, {{std::move(output), kFloats}}, {}, "", ""};
}

// x -> Relu -> a -> Neg -> y
struct Chain {
  Model model;
  Graph& graph = model.graph();
  Value* x = graph.add_input("x", kFloats);
  Node* relu = graph.insert(unary("Relu", x, "a"));
  Node* neg = graph.insert(unary("Neg", relu->output(), "y"));
  Chain() { graph.add_output(*neg->output()); }
};

TEST(Graph, KeepsUseLists) {
  Chain chain;
  EXPECT_EQ(chain.x->uses(), (std::vector<Use>{{chain.relu, 0, nullptr}}));
  EXPECT_TRUE(chain.neg->output()->is_graph_output());
  EXPECT_FALSE(chain.relu->output()->is_graph_output());
  EXPECT_TRUE(verify(chain.model));
}

TEST(Graph, InsertGoesBeforeTheGivenNode) {
  Chain chain;
  Node* abs = chain.graph.insert(unary("Abs", chain.x, "b"), chain.relu);
  EXPECT_EQ(chain.graph.nodes(), (std::vector<Node*>{abs, chain.relu, chain.neg}));
  EXPECT_TRUE(chain.graph.before(*abs, *chain.relu));
}

TEST(Graph, OrderSurvivesManyInsertionsAtOnePlace) {
  Chain chain;
  for (int i = 0; i < 100; ++i) chain.graph.insert(unary("Abs", chain.x, "b"), chain.neg);
  const auto nodes = chain.graph.nodes();
  for (std::size_t i = 1; i < nodes.size(); ++i) EXPECT_TRUE(chain.graph.before(*nodes[i - 1], *nodes[i]));
}

TEST(Graph, NamesAreMadeUnique) {
  Chain chain;
  EXPECT_EQ(chain.graph.insert(unary("Abs", chain.x, "a"))->output()->name(), "a_1");
  EXPECT_EQ(chain.graph.unique_name("fresh"), "fresh");
}

TEST(Graph, ReplacingAnOutputMovesThePublicName) {
  Chain chain;
  Value* y = chain.neg->output();
  ASSERT_TRUE(chain.graph.can_replace(*y, *chain.relu->output()));
  chain.graph.replace_all_uses(*y, *chain.relu->output());
  EXPECT_EQ(chain.graph.outputs().front()->name(), "y");
  EXPECT_EQ(chain.graph.outputs().front(), chain.relu->output());
  chain.graph.erase(*chain.neg);
  EXPECT_TRUE(verify(chain.model));
}

TEST(Graph, AnInputCannotTakeAPublicName) {
  Chain chain;
  EXPECT_FALSE(chain.graph.can_replace(*chain.neg->output(), *chain.x));
  Value* weight = chain.graph.add_initializer("w", Tensor::of<float>({2}, {1, 2}));
  EXPECT_FALSE(chain.graph.can_replace(*chain.neg->output(), *weight));
  EXPECT_TRUE(chain.graph.can_replace(*chain.relu->output(), *weight));
}

TEST(Graph, TwoPublicValuesCannotBecomeOne) {
  Chain chain;
  chain.graph.add_output(*chain.relu->output());
  EXPECT_FALSE(chain.graph.can_replace(*chain.neg->output(), *chain.relu->output()));
}

TEST(Graph, ErasedNodesStayReadableUntilPurge) {
  Chain chain;
  Node* dead = chain.graph.insert(unary("Abs", chain.x, "b"));
  chain.graph.erase(*dead);
  EXPECT_TRUE(dead->erased());
  EXPECT_EQ(chain.x->uses().size(), 1U);
  chain.graph.purge();
  EXPECT_EQ(chain.graph.node_count(), 2U);
}

TEST(Graph, ACaptureCountsAsAUse) {
  Chain chain;
  auto branch = std::make_unique<Graph>(&chain.graph);
  Node* inner = branch->insert(unary("Abs", chain.relu->output(), "inner"));
  branch->add_output(*inner->output());
  Value* condition = chain.graph.add_input("c", Type::tensor(DType::kBool, std::vector<std::int64_t>{}));
  NodeSpec spec{"If", {condition}, {{"z", kFloats}}, {}, "", ""};
  spec.attributes.emplace_back("then_branch", std::move(branch));
  Node* branching = chain.graph.insert(std::move(spec));
  EXPECT_EQ(chain.relu->output()->uses().size(), 2U);
  EXPECT_TRUE(verify(chain.model));
  chain.graph.erase(*branching);
  EXPECT_EQ(chain.relu->output()->uses().size(), 1U);
  EXPECT_TRUE(verify(chain.model));
}

TEST(Graph, SortKeepsAnOrderThatIsRight) {
  Chain chain;
  for (int i = 0; i < 20; ++i) chain.graph.insert(unary("Abs", i % 3 == 0 ? chain.x : chain.relu->output(), "b"));
  const auto before = chain.graph.nodes();
  ASSERT_TRUE(chain.graph.sort_topologically());
  EXPECT_EQ(chain.graph.nodes(), before);
}

TEST(Graph, SortRestoresOrderAndFindsCycles) {
  Chain chain;
  Node* late = chain.graph.insert(unary("Abs", chain.x, "b"));
  chain.graph.set_input(*chain.relu, 0, late->output());
  EXPECT_FALSE(verify(chain.model));
  ASSERT_TRUE(chain.graph.sort_topologically());
  EXPECT_EQ(chain.graph.nodes(), (std::vector<Node*>{late, chain.relu, chain.neg}));
  EXPECT_TRUE(verify(chain.model));
  chain.graph.set_input(*late, 0, chain.neg->output());
  const Status sorted = chain.graph.sort_topologically();
  ASSERT_FALSE(sorted);
  EXPECT_EQ(sorted.error().code, Code::kCorrupt);
}

TEST(Graph, ConstantNodesAreConstants) {
  Model model;
  NodeSpec spec{"Constant", {}, {{"c", Type::none()}}, {}, "", ""};
  spec.attributes.emplace_back("value_ints", std::vector<std::int64_t>{3, 4});
  const Node* node = model.graph().insert(std::move(spec));
  ASSERT_NE(node->output()->constant(), nullptr);
  EXPECT_EQ(*to_int64s(*node->output()->constant()), (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(node->output()->static_dims(), Dims{2});
}

TEST(Graph, AnOverridableInitializerIsNoConstant) {
  Model model;
  Value* input = model.graph().add_input("w", kFloats);
  model.graph().set_input_default(*input, Tensor::of<float>({2}, {1, 2}));
  model.ir_version = 4;
  EXPECT_EQ(input->constant(), nullptr);
  EXPECT_NE(input->initializer(), nullptr);
  model.ir_version = 3;
  EXPECT_NE(input->constant(), nullptr);
}

TEST(Graph, SetInputGrowsAndTrims) {
  Chain chain;
  chain.graph.set_input(*chain.relu, 2, chain.x);
  EXPECT_EQ(chain.relu->inputs().size(), 3U);
  EXPECT_EQ(chain.relu->input(1), nullptr);
  chain.graph.set_input(*chain.relu, 2, nullptr);
  EXPECT_EQ(chain.relu->inputs().size(), 1U);
}

TEST(Graph, OutputsCanBeRemovedByIndex) {
  Chain chain;
  chain.graph.add_output(*chain.relu->output());
  chain.graph.remove_output(0);
  EXPECT_FALSE(chain.neg->output()->is_graph_output());
  EXPECT_TRUE(verify(chain.model));
}

TEST(Model, CloneSharesTensorsAndNothingElse) {
  Chain chain;
  Value* weight = chain.graph.add_initializer("w", Tensor::of<float>({2}, {1, 2}));
  chain.graph.set_input(*chain.neg, 0, weight);
  const auto copy = chain.model.clone();
  EXPECT_TRUE(verify(*copy));
  EXPECT_TRUE(copy->graph().find("w")->initializer()->same_as(*weight->initializer()));
  copy->graph().set_input(*copy->graph().nodes()[1], 0, copy->graph().find("x"));
  EXPECT_EQ(chain.neg->input(0), weight);
}

}  // namespace
}  // namespace onnxfold::graph_test
