#include <fmt/format.h>

#include <random>

#include "tests/passes/tie/rolled.h"

namespace onnxfold::test::roll_layers_test {
namespace {

using testing::HasSubstr;

TEST(RollLayers, StacksDifferentWeights) {
  const auto rolled = roll_and_back(stack({0, 1, 2, 3, 4}));
  const Node* node = loop_of(rolled->graph());
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(node->is("Scan"));
  EXPECT_EQ(rolled->graph().node_count(), 2U);
  EXPECT_EQ(node->attr_graph("body")->node_count(), 4U);
  EXPECT_EQ(rolled->graph().outputs()[0]->name(), "y");
  std::vector<std::string> names;
  for (const Value* value : rolled->graph().initializers()) names.push_back(value->name());
  EXPECT_THAT(names, testing::UnorderedElementsAre("upi", "downi"));
}
TEST(RollLayers, PicksByGatherInLoops) {
  const auto rolled = roll_and_back(stack({0, 1, 2, 3}), {{"form", "loop"}});
  EXPECT_TRUE(loop_of(rolled->graph())->is("Loop"));
}
TEST(RollLayers, OldOpsetsHaveNoScan) {
  const auto rolled = roll_and_back(stack({0, 1, 2, 3}, "Relu", 8));
  EXPECT_TRUE(loop_of(rolled->graph())->is("Loop"));
}
TEST(RollLayers, CapturesSharedWeights) {
  const auto four = roll_and_back(stack({0, 0, 0, 0})), nine = roll_and_back(stack({0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(loop_of(four->graph())->is("Loop"));
  EXPECT_EQ(weight_bytes(*four), weight_bytes(*nine));
}
TEST(RollLayers, EqualContentIsShared) {
  std::string text = stack({0, 1, 2});
  for (const std::string name : {"up", "down"}) {
    const std::string dims = name == "up" ? "[4,6] " : "[6,4] ";
    for (int u = 0; u < 3; ++u) {
      const std::string from = "float" + dims + name + std::to_string(u) + " = {}";
      std::string numbers;
      for (int i = 0; i < 24; ++i) numbers += (i > 0 ? ", " : "") + std::to_string(i % 5) + ".5";
      text.replace(text.find(from), from.size(), from.substr(0, from.size() - 1) + numbers + "}");
    }
  }
  const auto model = model_from_text(text);
  ASSERT_TRUE(run_pass("roll-layers", *model));
  EXPECT_TRUE(loop_of(model->graph())->is("Loop"));
  EXPECT_EQ(difference(*model_from_text(text), *model, Precision::kFloat32, 0), "");
}
TEST(RollLayers, CyclesMakeOneBodyOfSeveralBlocks) {
  const auto rolled = roll_and_back(stack({0, 1, 2, 0, 1, 2, 0, 1, 2}));
  const Node* node = loop_of(rolled->graph());
  EXPECT_TRUE(node->is("Loop"));
  EXPECT_EQ(node->attr_graph("body")->node_count(), 13U);  // and an Identity
  EXPECT_EQ(weight_bytes(*rolled), 3 * 2 * 24 * 4 + 8 + 1);
}
TEST(RollLayers, SequencesReadATable) {
  for (const std::string form : {"scan", "loop"}) {
    const auto rolled = roll_and_back(stack({0, 0, 0, 1, 1, 1, 2, 2, 2}), {{"form", form}});
    EXPECT_LE(weight_bytes(*rolled), 3 * 2 * 24 * 4 + 2 * 9 * 8 + 9);
  }
}
TEST(RollLayers, MirroredCyclesReadATable) { roll_and_back(stack({0, 1, 2, 2, 1, 0})); }
TEST(RollLayers, BlocksInBodyIsObeyed) {
  const auto rolled = roll_and_back(stack({0, 1, 2, 3, 4, 5}), {{"blocks-in-body", "3"}});
  EXPECT_EQ(loop_of(rolled->graph())->attr_graph("body")->node_count(), 12U);
}
TEST(RollLayers, ShortRunsStay) {
  expect_unchanged("roll-layers", stack({0}));
  expect_unchanged("roll-layers", stack({0, 1, 2}), {{"min-blocks", "4"}});
}
TEST(RollLayers, ReadsConstantsThroughIdentity) {
  std::string text = stack({0, 0, 0});
  text.replace(text.find("h1 = MatMul(s0, up0)"), 20, "again = Identity(up0) h1 = MatMul(s0, again)");
  const auto model = model_from_text(text);
  const auto changed = run_pass("roll-layers", *model);
  ASSERT_TRUE(changed && *changed);
  EXPECT_NE(loop_of(model->graph()), nullptr);
  EXPECT_EQ(difference(*model_from_text(text), *model, Precision::kFloat32, 0), "");
}
TEST(RollLayers, RollsOnlyWhatIsEqual) {
  // The middle layer has another activation.
  std::string text = stack({0, 1, 2, 3, 4, 5, 6});
  text.replace(text.find("Relu(h3)"), 8, "Tanh(h3)");
  const auto rolled = roll_and_back(text);
  std::size_t loops = 0;
  for (const Node* node : rolled->graph().nodes()) loops += node->is("Scan") ? 1 : 0;
  EXPECT_EQ(loops, 2U);
}
TEST(RollLayers, AttributesMustAgree) {
  expect_unchanged(
      "roll-layers",
      model(
          "float[N,4] x", "float[N,4] y", "float[4,4] w0 = {}, float[4,4] w1 = {}",
          "a0 = Gemm(x, w0) b0 = LeakyRelu <alpha = 0.1> (a0) c0 = Add(b0, x) d0 = Neg(c0) e0 = Tanh(d0) f0 = Abs(e0) "
          "a1 = Gemm(f0, w1) b1 = LeakyRelu <alpha = 0.2> (a1) c1 = Add(b1, f0) d1 = Neg(c1) e1 = Tanh(d1) y = "
          "Abs(e1)"));
}
TEST(RollLayers, WidthsMustAgree) {
  std::string text = stack({0, 1});
  text.replace(text.find("float[4,6] up1"), 14, "float[4,7] up1");
  text.replace(text.find("float[6,4] down1"), 16, "float[7,4] down1");
  expect_unchanged("roll-layers", text);
}
TEST(RollLayers, HandsOutInnerValues) {
  std::string text = stack({0, 1, 2, 3});
  text.replace(text.find("(float[N,4] y)"), 14, "(float[N,4] y, float[N,6] a1, float[N,4] s2, float[N,6] h3)");
  const auto rolled = roll_and_back(text);
  EXPECT_EQ(rolled->graph().outputs()[1]->name(), "a1");
  EXPECT_EQ(rolled->graph().outputs()[3]->name(), "h3");
}
TEST(RollLayers, LastValueMayBePublic) {
  std::string text = stack({0, 1, 2});
  text.replace(text.find("float[N,4] y)"), 13, "float[N,4] s2)");
  const auto rolled = roll_and_back(text);
  EXPECT_EQ(rolled->graph().outputs()[0]->name(), "s2");
}
TEST(RollLayers, StacksCaches) {
  std::string inputs = "float[N,2,4] x", outputs = "float[N,2,4] y", weights, nodes, stream = "x";
  for (int l = 0; l < 4; ++l) {
    inputs += fmt::format(", float[N,P,4] past{}", l);
    outputs += fmt::format(", float[N,A,4] present{}", l);
    weights += fmt::format("{}float[4,4] k{} = {{}}", l > 0 ? ", " : "", l);
    nodes += fmt::format(
        "n{0} = MatMul({1}, k{0}) present{0} = Concat <axis = 1> (past{0}, n{0}) t{0} = Transpose <perm = [0, 2, 1]> "
        "(present{0}) "
        "q{0} = MatMul({1}, t{0}) p{0} = Softmax(q{0}) v{0} = MatMul(p{0}, present{0}) s{0} = Add({1}, v{0}) ",
        l, stream);
    stream = fmt::format("s{}", l);
  }
  const auto rolled = roll_and_back(model(inputs, outputs, weights, nodes + "y = Neg(" + stream + ")"));
  EXPECT_EQ(rolled->graph().inputs().size(), 5U);
  EXPECT_EQ(rolled->graph().outputs()[4]->name(), "present3");
  // Caches of other sizes cannot be joined.
  inputs.replace(inputs.find("P,4] past2"), 1, "Q");
  outputs.replace(outputs.find("A,4] present2"), 1, "B");
  const std::string unequal = model(inputs, outputs, weights, nodes + "y = Neg(" + stream + ")");
  const auto other = model_from_text(unequal);
  const auto changed = run_pass("roll-layers", *other);
  ASSERT_TRUE(changed && *changed);  // layers 0 and 1
  EXPECT_EQ(other->graph().node_count(), 2 + 1 + 1 + 2 + 14 + 1U);
}
TEST(RollLayers, SideResultsOfBlocksComeAlong) {
  std::string outputs = "float[N,4] y", weights, nodes, stream = "x";
  for (int l = 0; l < 3; ++l) {
    outputs += fmt::format(", float[1,N,4] e{}", l);
    weights += fmt::format("{}float[4,4] k{} = {{}}", l > 0 ? ", " : "", l);
    nodes += fmt::format(
        "h{0} = MatMul({1}, k{0}) a{0} = Relu(h{0}) s{0} = Add({1}, a{0}) n{0} = Neg(a{0}) e{0} = Unsqueeze(n{0}, z) ",
        l, stream);
    stream = fmt::format("s{}", l);
  }
  const auto rolled =
      roll_and_back(model("float[N,4] x", outputs, weights + ", int64[1] z = {0}", nodes + "y = Tanh(" + stream + ")"));
  EXPECT_EQ(loop_of(rolled->graph())->attr_graph("body")->node_count(), 5U);
  EXPECT_EQ(rolled->graph().node_count(), 5U);
}
TEST(RollLayers, InjectedInputIsCaptured) {
  std::string nodes, stream = "x";
  for (int l = 0; l < 4; ++l) {
    nodes += fmt::format("i{0} = Add({1}, x) h{0} = MatMul(i{0}, w) z{0} = Tanh(h{0}) ", l, stream);
    stream = fmt::format("z{}", l);
  }
  const auto rolled =
      roll_and_back(model("float[N,4] x", "float[N,4] y", "float[4,4] w = {}", nodes + "y = Neg(" + stream + ")"));
  EXPECT_TRUE(loop_of(rolled->graph())->is("Loop"));
  EXPECT_EQ(rolled->graph().node_count(), 2U);
}
TEST(RollLayers, ValuesOfTheFirstBlockKeepItOut) {
  // Every block reads what the first one computed of itself.
  std::string weights, nodes, stream = "x";
  for (int l = 0; l < 5; ++l) {
    weights += fmt::format("{}float[4,4] k{} = {{}}", l > 0 ? ", " : "", l);
    nodes += fmt::format("h{0} = MatMul({1}, k{0}) {2} r{0} = Mul(h{0}, m) t{0} = Tanh(r{0}) s{0} = Add({1}, t{0}) ", l,
                         stream, l == 0 ? "m = Sigmoid(h0)" : "");
    stream = fmt::format("s{}", l);
  }
  const auto rolled = roll_and_back(model("float[N,4] x", "float[N,4] y", weights, nodes + "y = Neg(" + stream + ")"));
  EXPECT_EQ(rolled->graph().node_count(), 5 + 1 + 1U);
}
TEST(RollLayers, TwoStreamsAreCarried) {
  std::string weights, nodes, a = "x", b = "z";
  for (int l = 0; l < 4; ++l) {
    weights += fmt::format("{0}float[4,4] f{1} = {{}}, float[4,4] g{1} = {{}}", l > 0 ? ", " : "", l);
    nodes += fmt::format(
        "p{0} = MatMul({2}, f{0}) t{0} = Tanh(p{0}) a{0} = Add({1}, t{0}) "
        "q{0} = MatMul(a{0}, g{0}) u{0} = Relu(q{0}) b{0} = Add({2}, u{0}) ",
        l, a, b);
    a = fmt::format("a{}", l), b = fmt::format("b{}", l);
  }
  roll_and_back(model("float[N,4] x, float[N,4] z", "float[N,4] y", weights, nodes + "y = Sub(" + a + ", " + b + ")"));
}
TEST(RollLayers, ConvolutionsWithoutResiduals) {
  std::string weights, nodes, stream = "x";
  for (int l = 0; l < 5; ++l) {
    weights += fmt::format("{}float[3,3,3,3] w{} = {{}}, float[3] b{} = {{}}", l > 0 ? ", " : "", l, l);
    nodes += fmt::format("c{0} = Conv <pads = [1, 1, 1, 1]> ({1}, w{0}, b{0}) r{0} = Relu(c{0}) ", l, stream);
    stream = fmt::format("r{}", l);
  }
  const auto rolled = roll_and_back(model("float[N,3,5,5] x", "float[N,3] y", weights,
                                          nodes + "m = GlobalAveragePool(" + stream + ") y = Flatten(m)"));
  EXPECT_EQ(rolled->graph().node_count(), 3U);
}
TEST(RollLayers, QuantizedWeightsAreStacked) {
  std::string weights = "float s = {0.5}, int8 z = {1}", nodes, stream = "x";
  for (int l = 0; l < 3; ++l) {
    weights += fmt::format(", int8[4,4] k{} = {{}}", l);
    nodes += fmt::format(
        "w{0} = DequantizeLinear(k{0}, s, z) h{0} = MatMul({1}, w{0}) t{0} = Tanh(h{0}) s{0} = Add({1}, t{0}) ", l,
        stream);
    stream = fmt::format("s{}", l);
  }
  roll_and_back(model("float[N,4] x", "float[N,4] y", weights, nodes + "y = Neg(" + stream + ")"));
}
TEST(RollLayers, BodiesOwnWhatTheyDecode) {
  std::string nodes, stream = "x";
  for (int l = 0; l < 3; ++l) {
    nodes += fmt::format(
        "w{0} = DequantizeLinear(k, s, z) h{0} = MatMul({1}, w{0}) t{0} = Tanh(h{0}) s{0} = Add({1}, t{0}) ", l,
        stream);
    stream = fmt::format("s{}", l);
  }
  const auto rolled = roll_and_back(model("float[N,4] x", "float[N,4] y, float[1] u",
                                          "float s = {0.5}, int8 z = {1}, int8[4,4] k = {}, float[1] one = {1}",
                                          nodes + "u = Mul(s, one) y = Neg(" + stream + ")"));
  const Graph& body = *loop_of(rolled->graph())->attr_graph("body");
  EXPECT_EQ(body.initializers().size(), 2U);  // the scale is read outside as well
  EXPECT_EQ(rolled->graph().find("k"), nullptr);
}
TEST(RollLayers, HalfBytesAreNotPicked) {
  std::string weights = "float s = {0.5}", nodes, stream = "x";
  for (int l = 0; l < 3; ++l) {
    weights += fmt::format(", uint4[4,4] k{} = {{}}", l);
    nodes += fmt::format(
        "w{0} = DequantizeLinear(k{0}, s) h{0} = MatMul({1}, w{0}) t{0} = Tanh(h{0}) s{0} = Add({1}, t{0}) ", l,
        stream);
    stream = fmt::format("s{}", l);
  }
  const auto made =
      model_from_text(model("float[N,4] x", "float[N,4] y", weights, nodes + "y = Neg(" + stream + ")", 21));
  std::vector<Remark> remarks;
  const auto changed = run_pass("roll-layers", *made, {}, &remarks);
  ASSERT_TRUE(changed && !*changed);
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_THAT(remarks[0].reason, HasSubstr("uint4"));
}
// Layers 2 and 3 read the weights of 0 and 1, which are not equal to them: a stack would be a second copy.
TEST(RollLayers, NothingIsStoredTwice) {
  const auto blocks = [](int width) {
    std::string weights, nodes, stream = "x";
    for (int l = 0; l < 4; ++l) {
      if (l < 2) weights += fmt::format("{0}float[{1},{1}] w{2} = {{}}", l > 0 ? ", " : "", width, l);
      const std::string other = l < 2 ? "Tanh" : "Sigmoid";
      nodes += fmt::format(
          "h{0} = MatMul({1}, w{2}) a{0} = {3}(h{0}) b{0} = Neg(a{0}) c{0} = {3}(b{0}) d{0} = Abs(c{0}) s{0} = "
          "Add({1}, d{0}) ",
          l, stream, l % 2, other);
      stream = fmt::format("s{}", l);
    }
    return model(fmt::format("float[N,{}] x", width), fmt::format("float[N,{}] y", width), weights,
                 nodes + "y = Neg(" + stream + ")");
  };
  EXPECT_THAT(said_of(blocks(16)),
              HasSubstr("2 equal blocks of 6 nodes: other nodes read 2048 bytes of the constants"));
  expect_unchanged("roll-layers", blocks(16));
  EXPECT_NE(loop_of(roll_and_back(blocks(4))->graph()), nullptr);  // fewer bytes than the nodes take
}
TEST(RollLayers, RandomNumbersStay) {
  std::string nodes, stream = "x";
  for (int l = 0; l < 3; ++l) {
    nodes += fmt::format(
        "n{0} = RandomNormalLike <seed = 1.0> ({1}) h{0} = MatMul(n{0}, w) t{0} = Tanh(h{0}) s{0} = Add({1}, t{0}) ", l,
        stream);
    stream = fmt::format("s{}", l);
  }
  const auto made =
      model_from_text(model("float[2,4] x", "float[2,4] y", "float[4,4] w = {}", nodes + "y = Neg(" + stream + ")"));
  const auto changed = run_pass("roll-layers", *made);
  ASSERT_TRUE(changed && !*changed);
}
TEST(RollLayers, BlocksWithSubgraphs) {
  std::string weights = "float[4,4] w = {}", nodes, stream = "x";
  for (int l = 0; l < 3; ++l) {
    weights += fmt::format(", float[4] b{} = {{}}", l);
    nodes += fmt::format(
        "h{0} = MatMul({1}, w) t{0} = If(c) <then_branch = a{0} () => (float[N,4] p{0}) {{ p{0} = Add(h{0}, b{0}) }}, "
        "else_branch = e{0} () => (float[N,4] q{0}) {{ q{0} = Sub(h{0}, {1}) }}> s{0} = Tanh(t{0}) u{0} = Neg(s{0}) ",
        l, stream);
    stream = fmt::format("u{}", l);
  }
  roll_and_back(model("float[N,4] x, bool c", "float[N,4] y", weights, nodes + "y = Neg(" + stream + ")"));
}
TEST(RollLayers, ReadersInSubgraphsSeeTheirBlock) {
  std::string text = stack({0, 1, 2, 3});
  text.replace(text.find("y = Tanh(s3)"), 12,
               "y = If(c) <then_branch = t () => (float[N,4] p) { p = Add(s1, s3) }, else_branch = e () => (float[N,4] "
               "q) { q = Neg(s2) }>");
  text.replace(text.find("float[N,4] x"), 12, "float[N,4] x, bool c");
  roll_and_back(text);
}
TEST(RollLayers, BroadcastsBetweenBlocksAreNoStream) {
  // The first sum has fewer rows than the others.
  std::string weights = "float[1,4] start = {}", nodes = "", stream = "start";
  for (int l = 0; l < 4; ++l) {
    weights += fmt::format(", float[4,4] k{} = {{}}", l);
    nodes += fmt::format("h{0} = MatMul({1}, k{0}) t{0} = Tanh(h{0}) s{0} = Add(x, t{0}) ", l, stream);
    stream = fmt::format("s{}", l);
  }
  const auto rolled = roll_and_back(model("float[N,4] x", "float[N,4] y", weights, nodes + "y = Neg(" + stream + ")"));
  EXPECT_EQ(rolled->graph().node_count(), 3 + 1 + 1U);
}
TEST(RollLayers, RunsMayFollowEachOther) {
  // Narrow layers, then wide ones on the same stream.
  std::string weights, nodes, stream = "x";
  for (int l = 0; l < 6; ++l) {
    const int width = l < 3 ? 3 : 5;
    weights += fmt::format("{0}float[4,{2}] f{1} = {{}}, float[{2},4] g{1} = {{}}", l > 0 ? ", " : "", l, width);
    nodes += fmt::format("h{0} = MatMul({1}, f{0}) t{0} = Tanh(h{0}) d{0} = MatMul(t{0}, g{0}) s{0} = Add({1}, d{0}) ",
                         l, stream);
    stream = fmt::format("s{}", l);
  }
  const auto rolled = roll_and_back(model("float[N,4] x", "float[N,4] y", weights, nodes + "y = Neg(" + stream + ")"));
  EXPECT_EQ(rolled->graph().node_count(), 3U);
}
TEST(RollLayers, OnceIsEnough) {
  const auto model = model_from_text(stack({0, 1, 0, 1, 0, 1}));
  ASSERT_TRUE(run_pass("roll-layers", *model));
  const auto again = run_pass("roll-layers", *model);
  ASSERT_TRUE(again && !*again);
}

// Random stacks: nodes of a block, sharing of weights, what is handed out, what comes from outside.
TEST(RollLayers, RandomStacks) {
  int rolled_models = 0;
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<std::uint32_t>(n)); };
    const int layers = 2 + pick(6), unique = 1 + pick(layers), steps = 3 + pick(4);
    std::vector<int> kinds, reads, others;
    for (int i = 0; i < steps; ++i)
      kinds.push_back(i == 0 ? 0 : pick(5)), reads.push_back(i + 1 == steps ? 1 : pick(i + 1)),
          others.push_back(pick(i + 2));
    std::string weights = "float[4] shared = {}", nodes, outputs = "float[N,4] y", stream = "x";
    for (int u = 0; u < unique; ++u) {
      for (int i = 0; i < steps; ++i) weights += fmt::format(", float[4,4] w{}x{} = {{}}", u, i);
    }
    const bool cyclic = pick(2) == 0;
    for (int l = 0; l < layers; ++l) {
      const int u = cyclic ? l % unique : l * unique / layers;
      const auto name = [&](int i) { return i == 0 ? stream : fmt::format("v{}x{}", l, i); };
      for (int i = 0; i < steps; ++i) {
        const std::string in = name(reads[i]), other = others[i] > i ? "x" : name(others[i]), out = name(i + 1);
        switch (kinds[i]) {
          case 0:
            nodes += fmt::format("{} = MatMul({}, w{}x{}) ", out, in, u, i);
            break;
          case 1:
            nodes += fmt::format("{} = Add({}, {}) ", out, in, other);
            break;
          case 2:
            nodes += fmt::format("{} = Tanh({}) ", out, in);
            break;
          case 3:
            nodes += fmt::format("{} = Mul({}, shared) ", out, in);
            break;
          default:
            nodes += fmt::format("{} = Sub({}, {}) ", out, other, in);
            break;
        }
      }
      const std::string next = fmt::format("s{}", l);
      nodes += fmt::format("{} = Add({}, {}) ", next, stream, name(steps));
      if (pick(3) == 0) outputs += fmt::format(", float[N,4] {}", pick(2) == 0 ? next : name(1 + pick(steps)));
      stream = next;
    }
    const auto model_text = model("float[N,4] x", outputs, weights, nodes + "y = Tanh(" + stream + ")");
    const auto rolled = roll_and_back(model_text, {}, true);
    rolled_models += loop_of(rolled->graph()) != nullptr ? 1 : 0;
  }
  EXPECT_GE(rolled_models, 45);
}

}  // namespace
}  // namespace onnxfold::test::roll_layers_test
