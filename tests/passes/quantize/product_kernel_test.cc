#include "passes/quantize/product_kernel.h"

#include <gtest/gtest.h>

#include "tests/support/calibrated_run.h"

namespace onnxfold::test::product_kernel_test {
namespace {

std::string product(const std::string& rows, const std::string& node, int width = 256) {
  const std::string w = std::to_string(width), weight = "float[" + w + ", " + w + "] ";
  return "<ir_version: 10, opset_import: [\"\" : 21, \"com.example\" : 1]> g (float[" + rows + ", " + w +
         "] x) => (float[" + rows + ", " + w + "] y) <" + weight + "w = {}, " + weight + "v = {}> { " + node + " }";
}

const char* const kPlain = "y = MatMul(x, w)";

std::int64_t level_of(const Model& model) {
  for (const Node* node : model.graph().nodes()) {
    if (node->is("MatMulNBits", "com.microsoft")) return node->attr_int("accuracy_level", -1);
  }
  return -2;
}

std::int64_t level(const std::string& text, OptionMap options) {
  options["min-elements"] = "0";
  const CalibratedRun run = run_calibrated("rtn", text, nullptr, options);
  EXPECT_TRUE(run.did());
  return level_of(*run.model);
}

TEST(ProductKernel, FourBitsRoundNoActivationsForManyRows) {
  EXPECT_EQ(level(product("1", kPlain), {}), 4);
  EXPECT_EQ(level(product("31", kPlain), {}), 4);
  EXPECT_EQ(level(product("32", kPlain), {}), 0);
  EXPECT_EQ(level(product("n, 16, 2", kPlain), {}), 0);
  EXPECT_EQ(level(product("n", kPlain), {}), 4);     // samples
  EXPECT_EQ(level(product("n, m", kPlain), {}), 0);  // sequences
  EXPECT_EQ(level(product("n, 1", kPlain), {}), 4);
  EXPECT_EQ(level(product("8", kPlain, 128), {}), 0);  // narrow ones sooner
  EXPECT_EQ(level(product("7", kPlain, 128), {}), 4);
  EXPECT_EQ(level(product("32", kPlain), {{"bits", "3"}}), 0);  // stored in 4
}

// A product of [n, s, 256] beside keys that grow by one position a run; `key` makes the output "present".
std::string decoder(const std::string& key) {
  return "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (float[n, s, 256] x, float[n, 4, p, 64] "
         "past, float[n, 4, s, 64] k, int64[1] i) => (float[n, s, 256] y, float[n, 4, t, 64] present) <float[256, 256] "
         "w = "
         "{}> { y = MatMul(x, w) " +
         key + " }";
}

TEST(ProductKernel, DecodersWithACacheMultiplyOneRow) {
  EXPECT_EQ(level(decoder("present = Concat <axis = 2> (past, k)"), {}), 4);
  EXPECT_EQ(
      level(decoder("a = Transpose <perm = [0, 1, 2, 3]> (past) b = Concat <axis = 2> (a, k) present = Identity(b)"),
            {}),
      4);
  EXPECT_EQ(level(decoder("present = ScatterElements <axis = 2> (past, j, k) j = Cast <to = 7> (k)"), {}), 4);
  EXPECT_EQ(level(decoder("o, present, v = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 4> (x, , , "
                          "past, past, i, i)"),
                  {}),
            4);
  // Near misses: the output is no state, or a state that nothing was put behind.
  EXPECT_EQ(level(decoder("present = Tanh(past)"), {}), 0);
  EXPECT_EQ(level(decoder("present = Transpose <perm = [0, 1, 2, 3]> (past)"), {}), 0);
  EXPECT_EQ(level(decoder("a = Tanh(past) present = Concat <axis = 2> (a, k)"), {}), 4);  // k is handed on as well
  EXPECT_EQ(level(decoder("a = Tanh(past) b = Tanh(k) present = Concat <axis = 2> (a, b)"), {}), 0);
}

TEST(ProductKernel, FlattenedPositionsCount) {
  const std::string flat =
      "<ir_version: 10, opset_import: [\"\" : 21]> g (float[n, s, 256] x) => (float[m, 256] y) <float[256, 256] w = "
      "{}, "
      "int64[2] k = {-1, 256}> { f = Reshape(x, k) r = Tanh(f) y = MatMul(r, w) }";
  EXPECT_EQ(level(flat, {}), 0);
  const std::string picked =
      "<ir_version: 10, opset_import: [\"\" : 21]> g (float[n, s, 256] x) => (float[n, 256] y) <float[256, 256] w = "
      "{}, "
      "int64 k = {0}> { f = Gather <axis = 1> (x, k) r = Tanh(f) y = MatMul(r, w) }";
  EXPECT_EQ(level(picked, {}), 4);
  const std::string pooled =
      "<ir_version: 10, opset_import: [\"\" : 21]> g (float[n, 256, 1, 1] x) => (float[n, 256] y) <float[256, 256] w = "
      "{}> "
      "{ f = Flatten(x) y = MatMul(f, w) }";
  EXPECT_EQ(level(pooled, {}), 4);
}

TEST(ProductKernel, AProductOfUnknownShapeIsTakenForTheLargestOther) {
  const std::string text = product("n, m", "a = MatMul(x, v) h = com.example.Any(a) y = MatMul(h, w)");
  const auto model = model_from_text(text);
  EXPECT_EQ(expected_rows(*model->graph().nodes()[2]), 64);
  const auto few = model_from_text(product("n", "a = MatMul(x, v) h = com.example.Any(a) y = MatMul(h, w)"));
  EXPECT_EQ(expected_rows(*few->graph().nodes()[2]), 1);
}

TEST(ProductKernel, OtherWidthsAndWhatIsAskedForStay) {
  EXPECT_EQ(level(product("128", kPlain), {{"bits", "8"}}), 4);
  EXPECT_EQ(level(product("128", kPlain), {{"bits", "2"}}), 4);
  EXPECT_EQ(level(product("128", kPlain), {{"accuracy-level", "4"}}), 4);
  EXPECT_EQ(level(product("1", kPlain), {{"accuracy-level", "0"}}), 0);
  EXPECT_EQ(level(product("1", kPlain), {{"accuracy-level", "1"}}), 1);
}

TEST(ProductKernel, RowsOfATransposedOperandAreItsColumns) {
  const std::string text =
      "<ir_version: 10, opset_import: [\"\" : 21]> g (float[64, 3] x) => (float[3, 64] y) <float[64, 64] w = {}> "
      "{ y = Gemm <transA = 1> (x, w) }";
  const auto model = model_from_text(text);
  EXPECT_EQ(expected_rows(*model->graph().nodes()[0]), 3);
}

TEST(ProductKernel, ConvertingToMatMulNBitsChoosesLikewise) {
  for (const auto& [rows, wanted] : std::initializer_list<std::pair<const char*, int>>{{"4", 4}, {"64", 0}}) {
    const auto run = run_passes({{"rtn", {{"form", "dequantizelinear"}, {"min-elements", "0"}}, {}},
                                 {"convert-blockwise-form", {{"to", "matmulnbits"}}, {}}},
                                product(rows, kPlain), nullptr);
    ASSERT_TRUE(run.did());
    EXPECT_EQ(level_of(*run.model), wanted);
  }
}

bool warns(const std::string& text, OptionMap options, const std::string& of = "slow with ONNX Runtime") {
  options["min-elements"] = "0";
  return run_calibrated("rtn", text, nullptr, options).says(of);
}

TEST(ProductKernel, SlowFormsAreSaid) {
  EXPECT_TRUE(warns(product("1", kPlain), {{"bits", "8"}, {"accuracy-level", "0"}}));
  EXPECT_TRUE(warns(product("1", kPlain), {{"bits", "2"}, {"accuracy-level", "1"}}));
  EXPECT_TRUE(warns(product("64", kPlain), {{"bits", "2"}}));
  EXPECT_FALSE(warns(product("1", kPlain), {{"bits", "2"}}));
  EXPECT_FALSE(warns(product("64", kPlain), {}));
  EXPECT_FALSE(warns(product("1", kPlain), {{"bits", "8"}}));
  EXPECT_FALSE(warns(product("1", kPlain), {{"accuracy-level", "0"}}));
  EXPECT_TRUE(warns(product("n, s", kPlain), {{"accuracy-level", "4"}}));
  EXPECT_TRUE(warns(product("n, s", kPlain), {{"bits", "8"}}));
}

TEST(ProductKernel, StandardFormInFrontOfReluIsSlow) {
  const OptionMap standard = {{"form", "dequantizelinear"}};
  const std::string relu = "Relu or Clip";
  EXPECT_TRUE(warns(product("4", "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)"), standard, relu));
  EXPECT_TRUE(warns(product("4", "h = Gemm(x, w) r = Clip(h) y = MatMul(r, v)"), standard, relu));
  EXPECT_FALSE(warns(product("4", "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)"), {}, relu));
  EXPECT_FALSE(warns(product("4", "h = MatMul(x, w) r = Tanh(h) y = MatMul(r, v)"), standard, relu));
  EXPECT_FALSE(warns(product("4", "h = MatMul(x, w) r = Relu(h) s = Add(h, r) y = MatMul(s, v)"), standard, relu));
  EXPECT_FALSE(warns(product("4", "h = MatMul(x, w) y = Relu(h)"), standard, relu));
}

TEST(ProductKernel, StandardTablesAreSlow) {
  const std::string table =
      "<ir_version: 10, opset_import: [\"\" : 21]> g (int64[3] i) => (float[3, 64] y) <float[40, 64] t = {}> "
      "{ y = Gather(t, i) }";
  EXPECT_TRUE(warns(table, {{"form", "dequantizelinear"}}, "decoded whole"));
  EXPECT_FALSE(warns(table, {}));
}

}  // namespace
}  // namespace onnxfold::test::product_kernel_test
