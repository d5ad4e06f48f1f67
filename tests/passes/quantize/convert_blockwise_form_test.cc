#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numeric>

#include "passes/quantize/block_layout.h"
#include "passes/quantize/packing.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test::convert_blockwise_form_test {
namespace {

const OptionMap kToStandard = {{"to", "dequantizelinear"}};
const OptionMap kToPacked = {{"to", "matmulnbits"}};
constexpr const char* kPass = "convert-blockwise-form";

std::vector<std::byte> content(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  const auto bytes = tensor.bytes();
  EXPECT_TRUE(bytes) << bytes.error().message;
  return {bytes->span().begin(), bytes->span().end()};
}

// A padded weight with codes of every value and, in ragged blocks, the padding ONNX Runtime writes.
StoredBlocks padded_weight(int bits, std::int64_t rows, std::int64_t cols, std::int64_t block, bool symmetric) {
  BlockCodes codes;
  codes.rows = rows;
  codes.cols = cols;
  codes.block = block;
  codes.blocks = (cols + block - 1) / block;
  codes.codes.assign(static_cast<std::size_t>(rows * codes.blocks * block), 0);
  for (std::int64_t i = 0; i < rows; ++i) {
    std::uint8_t* row = codes.codes.data() + i * codes.blocks * block;
    for (std::int64_t j = 0; j < cols; ++j) row[j] = static_cast<std::uint8_t>((i * 7 + j * 5) & ((1 << bits) - 1));
    if (bits == 4 && cols % 2 != 0 && (cols % block > 1 || codes.blocks % 2 == 0)) row[cols] = row[cols - 2];
  }
  std::vector<float> scales;
  for (std::int64_t i = 0; i < rows * codes.blocks; ++i) scales.push_back(0.01F * static_cast<float>(i + 1));
  StoredBlocks w{BlockLayout::kPadded, bits, rows, cols, block, {}, {}, {}};
  w.codes = Tensor::owned(DType::kUint8, {rows, codes.blocks, block * bits / 8},
                          pack_rows(codes, bits, codes.blocks * block));
  w.scales = Tensor::of<float>({rows, codes.blocks}, scales);
  if (symmetric) return w;
  for (std::int64_t i = 0; i < rows * codes.blocks; ++i) {
    codes.zeros.push_back(static_cast<std::uint8_t>((i * 3 + 1) & ((1 << bits) - 1)));
  }
  w.zeros = Tensor::owned(DType::kUint8, {rows, (codes.blocks * bits + 7) / 8}, pack_zero_rows(codes, bits));
  return w;
}

TEST(BlockLayout, ThereAndBackGivesTheSameBytes) {
  for (const int bits : {2, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const std::int64_t cols : {32, 33, 46, 47, 96, 17, 5, 80}) {
        SCOPED_TRACE(fmt::format("{} bits, {} columns, symmetric {}", bits, cols, symmetric));
        const StoredBlocks before = padded_weight(bits, 5, cols, 16, symmetric);
        const StoredBlocks between = convert_blocks(before, BlockLayout::kStandardAcross);
        const StoredBlocks after = convert_blocks(between, BlockLayout::kPadded);
        EXPECT_EQ(content(before.codes), content(after.codes));
        EXPECT_EQ(content(before.scales), content(after.scales));
        EXPECT_EQ(content(before.zeros), content(after.zeros));
        EXPECT_EQ(between.zeros.defined(), !symmetric);
        EXPECT_EQ(is_signed(between.codes.dtype()), symmetric);
      }
    }
  }
}

TEST(BlockLayout, StandardNumbersAreCodesLessTheMiddle) {
  const StoredBlocks before = padded_weight(4, 2, 18, 16, true);
  const StoredBlocks after = convert_blocks(before, BlockLayout::kStandardAcross);
  EXPECT_EQ(after.codes.dims(), (Dims{18, 2}));
  const auto numbers = to_int64s(after.codes);
  ASSERT_TRUE(numbers);
  for (std::int64_t k = 0; k < 18; ++k) {
    for (std::int64_t n = 0; n < 2; ++n) {
      EXPECT_EQ((*numbers)[static_cast<std::size_t>(k * 2 + n)], ((n * 7 + k * 5) & 15) - 8);
    }
  }
}

// x [3, K] times a constant standard weight, optionally with zero points or a Gemm bias.
std::string product_text(const std::string& type, int k, int n, int block, bool zeros, const std::string& reader,
                         const std::string& more = "") {
  const int blocks = (k + block - 1) / block;
  return fmt::format(R"(<ir_version: 13, opset_import: ["": 25, "com.microsoft": 1]>
    g (float[3, {1}] x) => (float[3, {2}] y)
    <{0}[{1}, {2}] w = {{}}, float[{4}, {2}] s = {{}}{5}{8}> {{
      d = DequantizeLinear<axis = 0, block_size = {3}>(w, s{6})
      y = {7}
    }})",
                     type, k, n, block, blocks, zeros ? fmt::format(", {}[{}, {}] z = {{}}", type, blocks, n) : "",
                     zeros ? ", z" : "", reader, more);
}

int count(const Model& model, const std::string& op, const std::string& domain = "") {
  return static_cast<int>(model.graph().nodes_of(op, domain).size());
}

// Runs the pass; the model must change and compute the same numbers. In float32 a product may differ in its last bits:
// the executor sums a transposed operand in another order. Tables sum nothing and must not.
std::unique_ptr<Model> converted(const std::string& text, const OptionMap& options) {
  auto model = model_from_text(text);
  const auto before = model_from_text(text);
  const auto changed = run_pass(kPass, *model, options);
  EXPECT_TRUE(changed && *changed) << text;
  EXPECT_EQ(difference(*before, *model, Precision::kFloat64, 0), "") << text;
  const bool table = !before->graph().nodes_of("Gather").empty() ||
                     !before->graph().nodes_of("GatherBlockQuantized", "com.microsoft").empty();
  const double limit = table ? 0 : tolerance(Exactness::kRounding, false);
  EXPECT_EQ(difference(*before, *model, Precision::kFloat32, limit), "") << text;
  return model;
}

TEST(ConvertBlockwiseForm, ProductsBothWays) {
  for (const char* type : {"int2", "uint2", "int4", "uint4", "int8", "uint8"}) {
    for (const bool zeros : {false, true}) {
      for (const int k : {32, 48, 37}) {
        const int n = std::string(type).ends_with("t2") ? 12 : 5;  // 2 bits come back in fours only
        const auto model = converted(product_text(type, k, n, 16, zeros, "MatMul(x, d)"), kToPacked);
        EXPECT_EQ(count(*model, "MatMulNBits", "com.microsoft"), 1);
        EXPECT_EQ(model->graph().node_count(), 1U);
        const auto packed = model_from_text(product_text(type, k, n, 16, zeros, "MatMul(x, d)"));
        const auto back = run_pass(kPass, *model, kToStandard);
        ASSERT_TRUE(back && *back);
        EXPECT_EQ(count(*model, "MatMul"), 1);
        EXPECT_EQ(difference(*packed, *model, Precision::kFloat64, 0), "");
      }
    }
  }
}

// ONNX Runtime misreads such weights when it fuses them, so they are not made.
TEST(ConvertBlockwiseForm, TwoBitsStayPackedWhereColumnsAreNoMultipleOfFour) {
  const auto model = converted(product_text("int2", 32, 5, 16, false, "MatMul(x, d)"), kToPacked);
  EXPECT_FALSE(*run_pass(kPass, *model, kToStandard));
}

TEST(ConvertBlockwiseForm, ZeroPointsOnlyWhereTheyAreNeeded) {
  const auto inputs = [](const char* type, bool zeros) {
    const auto model = converted(product_text(type, 32, 4, 16, zeros, "MatMul(x, d)"), kToPacked);
    return model->graph().nodes_of("MatMulNBits", "com.microsoft")[0]->inputs().size();
  };
  EXPECT_EQ(inputs("int4", false), 3U);
  EXPECT_EQ(inputs("uint4", false), 4U);
  EXPECT_EQ(inputs("int4", true), 4U);
}

TEST(ConvertBlockwiseForm, BiasOfGemm) {
  const auto inner = converted(product_text("int4", 32, 4, 16, false, "Gemm(x, d, b)", ", float[4] b = {}"), kToPacked);
  EXPECT_EQ(inner->graph().node_count(), 1U);
  const auto outer =
      converted(product_text("int4", 32, 4, 16, false, "Gemm(x, d, b)", ", float[3, 4] b = {}"), kToPacked);
  EXPECT_EQ(count(*outer, "Add"), 1);
}

TEST(ConvertBlockwiseForm, TablesBothWays) {
  for (const char* type : {"int4", "uint4", "int8", "uint8", "int2"}) {
    for (const char* zeros : {"", ", z"}) {
      const std::string text = fmt::format(R"(<ir_version: 13, opset_import: ["": 25, "com.microsoft": 1]>
        g (int64[2, 3] i) => (float[2, 3, 40] y)
        <{0}[7, 40] w = {{}}, float[7, 3] s = {{}}, {0}[7, 3] z = {{}}> {{
          d = DequantizeLinear<axis = 1, block_size = 16>(w, s{1})
          y = Gather<axis = 0>(d, i)
        }})",
                                           type, zeros);
      const auto model = converted(text, kToPacked);
      EXPECT_EQ(count(*model, "GatherBlockQuantized", "com.microsoft"), 1);
      const auto back = run_pass(kPass, *model, kToStandard);
      ASSERT_TRUE(back && *back);
      EXPECT_EQ(difference(*model_from_text(text), *model, Precision::kFloat64, 0), "");
      EXPECT_EQ(count(*model, "Gather"), 1);
    }
  }
}

TEST(ConvertBlockwiseForm, Int4TableKeepsItsTensors) {
  const auto model = converted(R"(<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
    g (int64[2] i) => (float[2, 45] y) <uint4[7, 45] w = {}, float[1, 45] s = {}> {
      y = com.microsoft.GatherBlockQuantized<block_size = 16, quantize_axis = 0, gather_axis = 0>(w, i, s)
    })",
                               kToStandard);
  EXPECT_EQ(model->graph().nodes_of("DequantizeLinear")[0]->attr_int("axis", 9), 0);
}

std::string packed_text(int opset, const std::string& inputs, const std::string& more, int bits = 4) {
  return fmt::format(R"(<ir_version: 10, opset_import: ["": {0}, "com.microsoft": 1]>
    g (float[3, 40] x) => (float[3, 5] y)
    <uint8[5, 3, {1}] w = {{}}, float[5, 3] s = {{}}{2}> {{
      y = com.microsoft.MatMulNBits<K = 40, N = 5, block_size = 16, bits = {3}>(x, w, s{4})
    }})",
                     opset, 16 * bits / 8, more, bits, inputs);
}

TEST(ConvertBlockwiseForm, RaisesTheOpsetOnlyForAConversion) {
  EXPECT_EQ(converted(packed_text(17, "", ""), kToStandard)->graph().opset(), 21);
  expect_unchanged(kPass, R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[3] x) => (float[3] y) { y = Relu(x) })",
                   kToStandard);
}

TEST(ConvertBlockwiseForm, BiasAndWholeFloatZeroPoints) {
  const auto biased = converted(packed_text(21, R"(, "", "", b)", ", float[5] b = {}"), kToStandard);
  EXPECT_EQ(count(*biased, "Add"), 1);
  const std::string whole = ", float[5, 3] z = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15}";
  EXPECT_EQ(count(*converted(packed_text(21, ", z", whole), kToStandard), "MatMul"), 1);
}

TEST(ConvertBlockwiseForm, LeavesWhatHasNoStandardForm) {
  expect_unchanged(kPass, packed_text(24, "", "", 2), kToStandard);
  expect_unchanged(kPass, packed_text(21, R"(, "", g)", ", int32[40] g = {}"), kToStandard);
  const std::string part = ", float[5, 3] z = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 2.5}";
  expect_unchanged(kPass, packed_text(21, ", z", part), kToStandard);
  const std::string past = ", float[5, 3] z = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16}";
  expect_unchanged(kPass, packed_text(21, ", z", past), kToStandard);
}

TEST(ConvertBlockwiseForm, LeavesWhatHasNoPackedForm) {
  const auto near_miss = [](int block, const std::string& reader, const std::string& more = "") {
    expect_unchanged(kPass, product_text("int4", 32, 32, block, false, reader, more), kToPacked);
  };
  near_miss(8, "MatMul(x, d)");
  near_miss(24, "MatMul(x, d)");
  near_miss(16, "Gemm<transB = 1>(x, d)");
  near_miss(16, "Gemm<alpha = 0.5>(x, d)");
  near_miss(16, "Gemm<beta = 0.5>(x, d, b)", ", float[32] b = {}");
  expect_unchanged(kPass, R"(<ir_version: 10, opset_import: ["": 21]>
    g (float[3, 32] x) => (float[3, 4] y, float[3, 4] v) <int4[32, 4] w = {}, float[2, 4] s = {}> {
      d = DequantizeLinear<axis = 0, block_size = 16>(w, s)
      y = MatMul(x, d)
      v = MatMul(x, d)
    })",
                   kToPacked);
  expect_unchanged(kPass, R"(<ir_version: 10, opset_import: ["": 21]>
    g (float[3, 32] x) => (float[3, 32] y) <int4[32, 32] w = {}, float[32, 2] s = {}> {
      d = DequantizeLinear<axis = 1, block_size = 16>(w, s)
      y = MatMul(x, d)
    })",
                   kToPacked);
}

TEST(ConvertBlockwiseForm, ReadsThroughAWidenedScale) {
  const auto model = converted(R"(<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
    g (float[3, 32] x) => (float[3, 4] y) <int4[32, 4] w = {}, float16[2, 4] h = {8192, 9216, 10240, 11264, 12288, 13312, 14336, 15361}> {
      s = Cast<to = 1>(h)
      d = DequantizeLinear<axis = 0, block_size = 16>(w, s)
      y = MatMul(x, d)
    })",
                               kToPacked);
  EXPECT_EQ(model->graph().node_count(), 1U);
}

TEST(ConvertBlockwiseForm, SharedWeightIsStoredOnce) {
  const auto model = converted(R"(<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
    g (float[3, 32] x) => (float[3, 4] y, float[3, 4] v) <uint8[4, 2, 8] w = {}, float[4, 2] s = {}> {
      r = Relu(x)
      y = com.microsoft.MatMulNBits<K = 32, N = 4, block_size = 16>(x, w, s)
      v = com.microsoft.MatMulNBits<K = 32, N = 4, block_size = 16>(r, w, s)
    })",
                               kToStandard);
  EXPECT_EQ(model->graph().initializers().size(), 2U);
}

TEST(ConvertBlockwiseForm, SaysWhy) {
  auto model = model_from_text(packed_text(24, "", "", 2));
  std::vector<Remark> remarks;
  ASSERT_TRUE(run_pass(kPass, *model, kToStandard, &remarks));
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_EQ(remarks[0].reason, "2 bits need opset 25");
  EXPECT_GT(remarks[0].weight_bytes, 0);
}

}  // namespace
}  // namespace onnxfold::test::convert_blockwise_form_test
