#include "analysis/structure/blocks.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::blocks_test {
namespace {

using test::model_from_text;

std::string graph_text(const std::string& nodes, const std::string& inputs = "float[B, S, 8] x",
                       const std::string& outputs = "float[B, S, 8] y") {
  return "<ir_version: 8, opset_import: [\"\" : 20, \"com.microsoft\" : 1]> g (" + inputs + ") => (" + outputs +
         R"() < float[8, 8] wq = {}, float[8, 8] wk = {}, float[8, 8] wv = {}, float[8, 8] wo = {}, float[8, 24] wqkv = {},
    float[24] bqkv = {}, float[8, 32] w1 = {}, float[32, 8] w2 = {}, float[8] gain = {}, float[8] bias = {},
    float[8] small = {}, int64[4] heads = {0, -1, 4, 2}, int64[3] joined = {0, -1, 8}, float[8, 8, 3, 3] c1 = {},
    float[8, 8, 3, 3] c2 = {}> { )" +
         nodes + " }";
}

std::string norm(const std::string& in, const std::string& out) {
  return out + " = LayerNormalization(" + in + ", gain, bias) ";
}

std::string attention(const std::string& in, const std::string& out, const std::string& p, const std::string& kv = "") {
  const std::string& source = kv.empty() ? in : kv;
  const auto v = [&](const char* n) { return p + n; };
  return v("q0") + " = MatMul(" + in + ", wq) " + v("q1") + " = Reshape(" + v("q0") + ", heads) " + v("q") +
         " = Transpose <perm = [0, 2, 1, 3]> (" + v("q1") + ") " + v("k0") + " = MatMul(" + source + ", wk) " +
         v("k1") + " = Reshape(" + v("k0") + ", heads) " + v("k") + " = Transpose <perm = [0, 2, 3, 1]> (" + v("k1") +
         ") " + v("v0") + " = MatMul(" + source + ", wv) " + v("v1") + " = Reshape(" + v("v0") + ", heads) " + v("v") +
         " = Transpose <perm = [0, 2, 1, 3]> (" + v("v1") + ") " + v("s") + " = MatMul(" + v("q") + ", " + v("k") +
         ") " + v("p") + " = Softmax <axis = -1> (" + v("s") + ") " + v("c") + " = MatMul(" + v("p") + ", " + v("v") +
         ") " + v("t") + " = Transpose <perm = [0, 2, 1, 3]> (" + v("c") + ") " + v("r") + " = Reshape(" + v("t") +
         ", joined) " + out + " = MatMul(" + v("r") + ", wo) ";
}

std::string feed_forward(const std::string& in, const std::string& out, const std::string& p) {
  return p + "u = MatMul(" + in + ", w1) " + p + "a = Gelu(" + p + "u) " + out + " = MatMul(" + p + "a, w2) ";
}

struct Found : BlockView {
  std::unique_ptr<Model> model;  // the pointers lead into it
};

Found blocks(const std::string& text) {
  Found found;
  found.model = model_from_text(text);
  static_cast<BlockView&>(found) = find_blocks(found.model->graph());
  return found;
}

TEST(Blocks, PreNorm) {
  const Found found = blocks(graph_text(
      norm("x", "n1") + attention("n1", "a", "a") + "x1 = Add(x, a) " + norm("x1", "n2") +
      feed_forward("n2", "f", "f") + "x2 = Add(x1, f) " + norm("x2", "n3") + attention("n3", "b", "b") +
      "x3 = Add(b, x2) " + norm("x3", "n4") + feed_forward("n4", "h", "h") + "x4 = Add(h, x3) " + norm("x4", "y")));
  ASSERT_EQ(found.blocks.size(), 2U);
  for (const Block& block : found.blocks) {
    EXPECT_EQ(block.kind, Block::Kind::kPreNorm);
    ASSERT_EQ(block.sublayers.size(), 2U);
    EXPECT_EQ(block.sublayers[0].kind, Sublayer::Kind::kAttention);
    EXPECT_EQ(block.sublayers[1].kind, Sublayer::Kind::kFeedForward);
    EXPECT_TRUE(block.sublayers[0].norm && block.sublayers[1].norm);
    EXPECT_FALSE(block.final_norm);  // the norm of the head is none of the last block's
    EXPECT_EQ(block.parameters(), 4 * 64 + 2 * 256 + 2 * 8);
    EXPECT_EQ(block.width, 8);
  }
  EXPECT_EQ(found.blocks[0].input->name(), "x");
  EXPECT_EQ(found.blocks[0].output->name(), "x2");
  EXPECT_EQ(found.blocks[1].input->name(), "x2");
  EXPECT_EQ(found.blocks[1].output->name(), "x4");
  EXPECT_EQ(found.blocks[1].sublayers[1].addend->name(), "h");
  EXPECT_EQ(found.blocks[1].sublayers[1].add->output()->name(), "x4");
  EXPECT_TRUE(found.notes.empty());
}

TEST(Blocks, PostNorm) {
  const Found found =
      blocks(graph_text(attention("x", "a", "a") + "s1 = Add(a, x) " + norm("s1", "x1") + feed_forward("x1", "f", "f") +
                        "s2 = Add(x1, f) " + norm("s2", "x2") + attention("x2", "b", "b") + "s3 = Add(x2, b) " +
                        norm("s3", "x3") + feed_forward("x3", "h", "h") + "s4 = Add(x3, h) " + norm("s4", "y")));
  ASSERT_EQ(found.blocks.size(), 2U);
  for (const Block& block : found.blocks) {
    EXPECT_EQ(block.kind, Block::Kind::kPostNorm);
    EXPECT_FALSE(block.sublayers[0].norm);
    EXPECT_TRUE(block.final_norm);
  }
  EXPECT_EQ(found.blocks[0].output->name(), "x2");
  EXPECT_EQ(found.blocks[1].input->name(), "x2");
  EXPECT_EQ(found.blocks[1].output->name(), "y");
}

TEST(Blocks, SublayersSideBySide) {
  for (const std::string& nodes : {
           // GPT-J, Falcon: one norm, the branches added first
           norm("x", "n") + attention("n", "a", "a") + feed_forward("n", "f", "f") + "s = Add(a, f) y = Add(s, x)",
           // GPT-NeoX: two norms
           norm("x", "n") + attention("n", "a", "a") + norm("x", "m") + feed_forward("m", "f", "f") +
               "s = Add(f, a) y = Add(x, s)",
           // one Add after the other, the second branch reads the first stream value
           norm("x", "n") + attention("n", "a", "a") + "s = Add(x, a) " + norm("x", "m") + feed_forward("m", "f", "f") +
               "y = Add(s, f)",
       }) {
    const Found found = blocks(graph_text(nodes));
    ASSERT_EQ(found.blocks.size(), 1U) << nodes;
    EXPECT_EQ(found.blocks[0].kind, Block::Kind::kParallel) << nodes;
    ASSERT_EQ(found.blocks[0].sublayers.size(), 2U) << nodes;
    EXPECT_EQ(found.blocks[0].sublayers[1].reads->name(), "x") << nodes;
    EXPECT_EQ(found.blocks[0].input->name(), "x") << nodes;
    EXPECT_EQ(found.blocks[0].output->name(), "y") << nodes;
  }
}

TEST(Blocks, DecoderWithCrossAttention) {
  const Found found = blocks(graph_text(norm("x", "n1") + attention("n1", "a", "a") + "x1 = Add(x, a) " +
                                            norm("x1", "n2") + attention("n2", "c", "c", "z") + "x2 = Add(x1, c) " +
                                            norm("x2", "n3") + feed_forward("n3", "f", "f") + "y = Add(x2, f)",
                                        "float[B, S, 8] x, float[B, T, 8] z"));
  ASSERT_EQ(found.blocks.size(), 1U);
  ASSERT_EQ(found.blocks[0].sublayers.size(), 3U);
  EXPECT_FALSE(found.blocks[0].sublayers[0].cross);
  EXPECT_TRUE(found.blocks[0].sublayers[1].cross);
}

TEST(Blocks, LayerScaleAndModulation) {
  const Found found = blocks(
      graph_text(norm("x", "n1") + attention("n1", "a", "a") + "l = Mul(small, a) x1 = Add(x, l) " + norm("x1", "n2") +
                     "m = Mul(n2, t) m2 = Add(m, t) " + feed_forward("m2", "f", "f") + "g = Mul(t, f) y = Add(x1, g)",
                 "float[B, S, 8] x, float[B, 1, 8] t"));
  ASSERT_EQ(found.blocks.size(), 1U);
  const auto& sublayers = found.blocks[0].sublayers;
  ASSERT_TRUE(sublayers[0].layer_scale);
  EXPECT_EQ(sublayers[0].layer_scale->name(), "small");
  EXPECT_FALSE(sublayers[0].modulated || sublayers[0].gate != nullptr);
  EXPECT_TRUE(sublayers[1].modulated && sublayers[1].norm);
  ASSERT_TRUE(sublayers[1].gate);
  EXPECT_EQ(sublayers[1].gate->name(), "t");
}

TEST(Blocks, SkipLayerNormalizationIsAddAndNorm) {
  const std::string skip = " = com.microsoft.SkipLayerNormalization ";
  const Found post = blocks(graph_text(attention("x", "a", "a") + "x1" + skip + "(a, x, gain, bias) " +
                                       feed_forward("x1", "f", "f") + "y" + skip + "(f, x1, gain, bias, small)"));
  ASSERT_EQ(post.blocks.size(), 1U);
  EXPECT_EQ(post.blocks[0].kind, Block::Kind::kPostNorm);
  EXPECT_EQ(post.blocks[0].output->name(), "y");
  const Found pre = blocks(graph_text(norm("x", "n1") + attention("n1", "a", "a") + "n2, , , x1" + skip +
                                      "(x, a, gain, bias) " + feed_forward("n2", "f", "f") + "y = Add(x1, f)"));
  ASSERT_EQ(pre.blocks.size(), 1U);
  EXPECT_EQ(pre.blocks[0].kind, Block::Kind::kPreNorm);
  EXPECT_TRUE(pre.blocks[0].sublayers[1].norm);
}

TEST(Blocks, ConvolutionsWithAnIdentity) {
  const Found found = blocks(graph_text(
      "a = Conv <pads = [1, 1, 1, 1]> (x, c1) b = Relu(a) c = Conv <pads = [1, 1, 1, 1]> (b, c2) s = Add(c, x) "
      "y = Relu(s)",
      "float[B, 8, 4, 4] x", "float[B, 8, 4, 4] y"));
  ASSERT_EQ(found.blocks.size(), 1U);
  EXPECT_EQ(found.blocks[0].kind, Block::Kind::kConvolution);
  EXPECT_EQ(found.blocks[0].width, 8);
  EXPECT_EQ(found.blocks[0].output->name(), "y");
}

TEST(Blocks, AnUnknownBranchIsNamed) {
  const Found found = blocks(graph_text("n = Sin(x) m = CumSum(n, ax) y = Add(x, m)", "float[B, S, 8] x, int64 ax"));
  ASSERT_EQ(found.blocks.size(), 1U);
  EXPECT_EQ(found.blocks[0].kind, Block::Kind::kOther);
  ASSERT_EQ(found.notes.size(), 1U);
  EXPECT_NE(found.notes[0].reason.find("CumSum, Sin"), std::string::npos);
}

TEST(Blocks, ASkipAroundBlocksIsNoBlock) {
  const Found found =
      blocks(graph_text(norm("x", "n1") + attention("n1", "a", "a") + "x1 = Add(x, a) " + norm("x1", "n2") +
                        feed_forward("n2", "f", "f") + "x2 = Add(x1, f) " + "y = Add(x, x2)"));
  ASSERT_EQ(found.blocks.size(), 1U);
  EXPECT_EQ(found.blocks[0].output->name(), "x2");
  ASSERT_EQ(found.notes.size(), 1U);
}

TEST(Blocks, AddsThatAreNoResiduals) {
  for (const std::string& nodes : {
           std::string("a = Sin(x) b = Cos(x) y = Add(a, b)"),  // two branches, no stream
           std::string("a = Sin(x) y = Add(a, small)"),         // a bias
           attention("x", "a", "a") + feed_forward("x", "f", "f") + "y = Add(a, f)",
       }) {
    EXPECT_TRUE(blocks(graph_text(nodes)).blocks.empty()) << nodes;
  }
  EXPECT_EQ(blocks(graph_text(attention("x", "y", "a"))).attentions.size(), 1U);
}

}  // namespace
}  // namespace onnxfold::blocks_test
