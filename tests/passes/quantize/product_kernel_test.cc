#include "passes/quantize/product_kernel.h"

#include <gtest/gtest.h>

#include "tests/support/calibrated_run.h"

namespace onnxfold::test {
namespace {

std::string product(const std::string& rows, const std::string& node, int opset = 21) {
  return "<ir_version: 10, opset_import: [\"\" : " + std::to_string(opset) + "]> g (float[" + rows +
         ", 64] x) => (float[" + rows + ", 64] y) <float[64, 64] w = {}, float[64, 64] v = {}> { " + node + " }";
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
  EXPECT_EQ(level(product("n, m", kPlain), {}), 4);
  EXPECT_EQ(level(product("32", kPlain), {{"bits", "3"}}), 0);  // stored in 4
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
  EXPECT_EQ(certain_rows(*model->graph().nodes()[0]), 3);
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
}  // namespace onnxfold::test
