#include <gtest/gtest.h>

#include "ir/verify.h"
#include "passes/registry.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::rtn_test {
namespace {

using test::model_from_text;
using test::run_pass;

const test::OptionMap kSmall = {{"block", "16"}, {"min-elements", "0"}};

std::string graph(const std::string& interface, const std::string& initializers, const std::string& nodes,
                  int opset = 17) {
  return "<ir_version: 8, opset_import: [\"\" : " + std::to_string(opset) + "]> g " + interface + " <" + initializers +
         "> { " + nodes + " }";
}

std::unique_ptr<Model> quantized(const std::string& text, test::OptionMap options = kSmall) {
  auto model = model_from_text(text);
  const auto changed = run_pass("rtn", *model, options);
  EXPECT_TRUE(changed && *changed) << (changed ? "unchanged" : changed.error().message);
  return model;
}

const std::string kMatMul = graph("(float[2, 32] x) => (float[2, 8] y)", "float[32, 8] w = {}", "y = MatMul(x, w)");

TEST(Rtn, MatMulBecomesMatMulNBits) {
  const auto model = quantized(kMatMul);
  ASSERT_EQ(model->graph().node_count(), 1U);
  const Node& node = *model->graph().nodes()[0];
  EXPECT_TRUE(node.is("MatMulNBits", "com.microsoft"));
  EXPECT_EQ(node.attr_int("K", 0), 32);
  EXPECT_EQ(node.attr_int("N", 0), 8);
  EXPECT_EQ(node.attr_int("block_size", 0), 16);
  EXPECT_EQ(node.input(1)->static_dims(), (Dims{8, 2, 8}));
  EXPECT_EQ(node.input(2)->static_dims(), (Dims{8, 2}));
  EXPECT_EQ(node.output()->name(), "y");
  EXPECT_EQ(model->graph().find("w"), nullptr);
}

// Section "signed maximum": block maximum -1.0 gives scale 0.125, and -1, 0.5, 0.25, 0 become codes 0, 12, 10, 8.
TEST(Rtn, CodesOfASymmetricBlock) {
  const auto model =
      quantized(graph("(float[1, 16] x) => (float[1, 1] y)",
                      "float[16, 1] w = {-1, 0.5, 0.25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}", "y = MatMul(x, w)"));
  const Node& node = *model->graph().nodes()[0];
  const Bytes codes = *node.input(1)->constant()->bytes();
  EXPECT_EQ(codes.span()[0], std::byte{0xC0});
  EXPECT_EQ(codes.span()[1], std::byte{0x8A});
  EXPECT_EQ(*to_floats(*node.input(2)->constant()), std::vector<float>{0.125F});
}

TEST(Rtn, AsymmetricBlocksCarryZeroPoints) {
  test::OptionMap options = kSmall;
  options["symmetric"] = "false";
  const auto model =
      quantized(graph("(float[1, 16] x) => (float[1, 1] y)",
                      "float[16, 1] w = {0, 15, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}", "y = MatMul(x, w)"),
                options);
  const Node& node = *model->graph().nodes()[0];
  EXPECT_EQ((*node.input(1)->constant()->bytes()).span()[0], std::byte{0xF0});
  EXPECT_EQ((*node.input(3)->constant()->bytes()).span()[0], std::byte{0x80});  // zero point 0, unused half 8
}

TEST(Rtn, GemmWithTransposedWeightAndBias) {
  const auto model = quantized(graph("(float[2, 32] x) => (float[2, 8] y)", "float[8, 32] w = {}, float[8] b = {}",
                                     "y = Gemm <transB = 1> (x, w, b)"));
  const Node& node = *model->graph().nodes()[0];
  EXPECT_TRUE(node.is("MatMulNBits", "com.microsoft"));
  EXPECT_EQ(node.input(5)->name(), "b");
}

TEST(Rtn, GatherBecomesGatherBlockQuantized) {
  const auto model = quantized(graph("(int64[3] i) => (float[3, 32] y)", "float[10, 32] t = {}", "y = Gather(t, i)"));
  const Node& node = *model->graph().nodes()[0];
  EXPECT_TRUE(node.is("GatherBlockQuantized", "com.microsoft"));
  EXPECT_EQ(node.input(0)->static_dims(), (Dims{10, 16}));
}

TEST(Rtn, StandardFormRaisesTheOpset) {
  test::OptionMap options = kSmall;
  options["form"] = "dequantizelinear";
  const auto model = quantized(kMatMul, options);
  EXPECT_EQ(model->opset_imports.at(""), 21);
  ASSERT_EQ(model->graph().node_count(), 2U);
  EXPECT_TRUE(model->graph().nodes()[0]->is("DequantizeLinear"));
  EXPECT_EQ(model->graph().nodes()[0]->input(0)->dtype(), DType::kInt4);
  EXPECT_TRUE(verify(*model));
}

TEST(Rtn, AWeightReadTwiceIsStoredOnce) {
  const auto model = quantized(graph("(float[2, 32] x) => (float[2, 8] y)", "float[32, 8] w = {}",
                                     "a = MatMul(x, w) b = MatMul(x, w) y = Add(a, b)"));
  const auto nodes = model->graph().nodes();
  EXPECT_EQ(nodes[0]->input(1), nodes[1]->input(1));
}

TEST(Rtn, NearMisses) {
  for (const std::string& text : {
           graph("(float[1, 2, 32] x) => (float[1, 2, 8] y)", "float[1, 32, 8] w = {}", "y = MatMul(x, w)"),
           graph("(float[32, 8] x) => (float[8, 8] y)", "float[8, 32] w = {}", "y = MatMul(w, x)"),
           graph("(double[2, 32] x) => (double[2, 8] y)", "double[32, 8] w = {}", "y = MatMul(x, w)"),
           graph("(float[32, 2] x) => (float[2, 8] y)", "float[32, 8] w = {}", "y = Gemm <transA = 1> (x, w)"),
           graph("(float[2, 32] x) => (float[2, 8] y)", "float[32, 8] w = {}", "y = Gemm <alpha = 2.0> (x, w)"),
           graph("(int64[3] i) => (float[10, 3] y)", "float[10, 32] t = {}", "y = Gather <axis = 1> (t, i)"),
       }) {
    test::expect_unchanged("rtn", text, kSmall);
  }
  test::expect_unchanged("rtn", kMatMul, {{"block", "16"}});  // too small by default
  test::expect_unchanged("rtn", kMatMul, {{"block", "16"}, {"min-elements", "0"}, {"exclude", "w*"}});
  test::expect_unchanged("rtn", kMatMul, {{"block", "16"}, {"min-elements", "0"}, {"include", "other"}});
}

std::vector<std::string> remarks_of(const std::string& text, test::OptionMap options = kSmall) {
  auto model = model_from_text(text);
  std::vector<Remark> remarks;
  EXPECT_TRUE(run_pass("rtn", *model, options, &remarks));
  std::vector<std::string> reasons;
  for (const Remark& remark : remarks) reasons.push_back(remark.reason);
  return reasons;
}

TEST(Rtn, ProductsOfActivationsAreNobodysWeights) {
  EXPECT_TRUE(
      remarks_of(graph("(float[2, 32] x, float[32, 8] w) => (float[2, 8] y)", "float u = {0}", "y = MatMul(x, w)"))
          .empty());
  EXPECT_TRUE(remarks_of(graph("(float[9, 32] t, int64[3] i) => (float[3, 32] y)", "float u = {0}", "y = Gather(t, i)"))
                  .empty());
}

TEST(Rtn, SkipsWhatWouldNotGetSmaller) {
  const std::string text = graph("(float[2, 3] x) => (float[2, 8] y)", "float[3, 8] w = {}", "y = MatMul(x, w)");
  test::OptionMap wide = {{"block", "256"}, {"min-elements", "0"}};
  ASSERT_EQ(remarks_of(text, wide).size(), 1U);
  EXPECT_NE(remarks_of(text, wide)[0].find("would not get smaller"), std::string::npos);
  test::expect_unchanged("rtn", text, wide);
}

TEST(Rtn, SaysWhenBothCopiesStay) {
  const auto reasons = remarks_of(graph("(float[2, 32] x, float[32, 8] z) => (float[2, 8] y, float[32, 8] u)",
                                        "float[32, 8] w = {}", "y = MatMul(x, w) u = Add(z, w)"));
  ASSERT_EQ(reasons.size(), 2U);
  EXPECT_NE(reasons[1].find("both copies stay"), std::string::npos);
}

// A head tied to the embedding reads the table through a Transpose: blocks then run along the table's rows.
TEST(Rtn, TheTiedHeadBehindATranspose) {
  const std::string tied = graph("(int64[3] i) => (float[3, 10] y)", "float[10, 32] t = {}",
                                 "e = Gather(t, i) w = Transpose <perm = [1, 0]> (t) y = MatMul(e, w)");
  const auto model = quantized(tied);
  // Both read the same codes, scales and nothing else: the table takes them through a Reshape.
  ASSERT_EQ(model->graph().node_count(), 3U);
  const Node& head = *model->graph().nodes()[2];
  const Node& embedding = *model->graph().nodes()[1];
  EXPECT_TRUE(head.is("MatMulNBits", "com.microsoft"));
  EXPECT_TRUE(embedding.is("GatherBlockQuantized", "com.microsoft"));
  EXPECT_EQ(embedding.input(0)->producer()->input(0), head.input(1));
  EXPECT_EQ(embedding.input(2), head.input(2));
  EXPECT_EQ(head.attr_int("K", 0), 32);
  EXPECT_EQ(head.attr_int("N", 0), 10);
  EXPECT_EQ(model->graph().find("t"), nullptr);
  test::OptionMap standard = kSmall;
  standard["form"] = "dequantizelinear";
  const auto plain = quantized(tied, standard);
  // Codes and scales once; the head takes them transposed, which runtimes fold.
  EXPECT_EQ(plain->graph().node_count(), 6U);
  EXPECT_EQ(plain->graph().initializers().size(), 2U);
  EXPECT_EQ(plain->graph().nodes()[5]->input(1)->static_dims(), (Dims{32, 10}));
  EXPECT_TRUE(verify(*plain));
  // Two bits stay apart: ONNX Runtime does not transpose them at load.
  standard["bits"] = "2";
  const auto narrow = quantized(graph("(int64[3] i) => (float[3, 12] y)", "float[12, 32] t = {}",
                                      "e = Gather(t, i) w = Transpose <perm = [1, 0]> (t) y = MatMul(e, w)"),
                                standard);
  EXPECT_EQ(narrow->graph().initializers().size(), 4U);
  EXPECT_EQ(narrow->graph().node_count(), 4U);
  standard["bits"] = "4";
  // Tables and heads that are no transposes of each other stay apart.
  const auto apart = quantized(graph("(int64[3] i) => (float[3, 10] y)", "float[10, 32] t = {}, float[32, 10] w = {}",
                                     "e = Gather(t, i) y = MatMul(e, w)"),
                               standard);
  EXPECT_EQ(apart->graph().initializers().size(), 4U);
}

TEST(Rtn, WeightsBehindACastTakeTheTypeThatIsRead) {
  const auto model = quantized(graph("(float16[2, 32] x) => (float16[2, 8] y)", "float[32, 8] h = {}",
                                     "w = Cast <to = 10> (h) y = MatMul(x, w)"));
  ASSERT_EQ(model->graph().node_count(), 1U);
  EXPECT_EQ(model->graph().nodes()[0]->input(2)->dtype(), DType::kFloat16);
}

TEST(Rtn, StandardFormTakesGemmAsItIs) {
  test::OptionMap options = kSmall;
  options["form"] = "dequantizelinear";
  const auto model = quantized(graph("(float[32, 2] x) => (float[2, 8] y)", "float[8, 32] w = {}, float[8] b = {}",
                                     "y = Gemm <transA = 1, transB = 1, alpha = 2.0, beta = 0.5> (x, w, b)", 21),
                               options);
  const Node& gemm = *model->graph().nodes()[1];
  EXPECT_EQ(gemm.attr_float("alpha", 1), 2.0F);
  EXPECT_EQ(gemm.attr_int("transA", 0), 1);
  EXPECT_EQ(gemm.attr_int("transB", 0), 0);
  EXPECT_EQ(gemm.input(1)->static_dims(), (Dims{32, 8}));
}

TEST(Rtn, StandardFormKeepsTheOpsetWhenNothingQuantizes) {
  test::expect_unchanged("rtn", graph("(float[2, 32] x) => (float[2, 8] y)", "float[32, 8] w = {}", "y = MatMul(x, w)"),
                         {{"form", "dequantizelinear"}});
}

TEST(Rtn, AWeightOfTwoBranchesIsStoredOnceOutside) {
  const auto model = quantized(graph("(bool c, float[2, 32] x) => (float[2, 8] y)", "float[32, 8] w = {}",
                                     "y = If (c) <then_branch = a () => (float[2, 8] p) { p = MatMul(x, w) },"
                                     " else_branch = b () => (float[2, 8] q) { n = Neg(x) q = MatMul(n, w) }>"));
  EXPECT_EQ(model->graph().initializers().size(), 2U);  // codes and scales
  EXPECT_EQ(model->graph().find("w"), nullptr);
  EXPECT_TRUE(verify(*model));
}

TEST(Rtn, ABadWeightIsNamedWhenItsBytesAreMade) {
  auto model = model_from_text(kMatMul);
  std::vector<float> values(32 * 8, 1.0F);
  values[7] = std::numeric_limits<float>::quiet_NaN();
  Graph& inner = model->graph();
  Value* bad = inner.add_initializer("bad", Tensor::of<float>({32, 8}, values));
  inner.set_input(*inner.nodes()[0], 1, bad);
  const PassInfo& info = *find_pass("rtn");
  PassContext context(*model, "rtn");
  ASSERT_TRUE(info.make(*PassOptions::parse("rtn", info.options, kSmall))->run(inner, context));
  const auto bytes = model->graph().nodes()[0]->input(1)->constant()->bytes();
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code, Code::kInvalidArgument);
  EXPECT_NE(bytes.error().message.find("'bad'"), std::string::npos);
}

}  // namespace
}  // namespace onnxfold::rtn_test
