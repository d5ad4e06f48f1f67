#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "analysis/calibrate/dataset.h"
#include "ir/verify.h"
#include "passes/quantize/gptq_descent.h"
#include "passes/quantize/gptq_sweep.h"
#include "passes/registry.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::gptq_test {
namespace {

using test::model_from_text;

// Correlated inputs: a few directions carry most of the energy.
FloatRows inputs(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  FloatRows mix(4, cols), out(rows, cols);
  for (float& x : mix.data) x = normal(random);
  for (std::int64_t i = 0; i < rows; ++i) {
    float* row = out.row(i);
    for (std::int64_t j = 0; j < cols; ++j) row[j] = 0.3F * normal(random);
    for (std::int64_t k = 0; k < 4; ++k) {
      const float strength = normal(random);
      for (std::int64_t j = 0; j < cols; ++j) row[j] += strength * mix.row(k)[j];
    }
  }
  return out;
}

FloatRows weight(std::int64_t rows, std::int64_t cols) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  FloatRows out(rows, cols);
  for (float& x : out.data) x = normal(random);
  return out;
}

double loss(const FloatRows& w, const FloatRows& q, const Matrix& gram) {
  double total = 0;
  for (std::int64_t r = 0; r < w.rows; ++r) {
    for (std::int64_t i = 0; i < w.cols; ++i) {
      const auto di = static_cast<double>(w.row(r)[i] - q.row(r)[i]);
      for (std::int64_t j = 0; j < w.cols; ++j) {
        total += di * gram.at(i, j) * static_cast<double>(w.row(r)[j] - q.row(r)[j]);
      }
    }
  }
  return total;
}

FloatRows nearest(const FloatRows& w, const BlockFormat& format) {
  const Tensor tensor = Tensor::of<float>({w.rows, w.cols}, w.data);
  return dequantized(*quantize_blocks(tensor, {w.rows, w.cols, 1}, format, DType::kFloat32), format);
}

struct Losses {
  double nearest = 0, fast = 0, high = 0;
};

Losses losses(const BlockFormat& format, std::int64_t rows, std::int64_t cols) {
  const FloatRows x = inputs(4 * cols, cols, 1), w = weight(rows, cols);
  Matrix gram;
  add_float_gram(gram, x);
  const SweepInputs swept = *sweep_inputs(gram, format.length(cols), 0.01);
  GptqSettings settings;
  settings.format = format;
  Losses out;
  out.nearest = loss(w, nearest(w, format), gram);
  out.fast = loss(w, dequantized(*gptq_sweep(w, swept, settings), format), gram);
  settings.sweep = true;
  settings.descent = 2;
  out.high = loss(w, dequantized(*gptq_sweep(w, swept, settings), format), gram);
  return out;
}

TEST(Gptq, OutputsChangeLessThanByRounding) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const ScaleForm scales : {ScaleForm::kFull, ScaleForm::kFloat16, ScaleForm::kInt8}) {
        BlockFormat format;
        format.bits = bits;
        format.block = 16;
        format.symmetric = symmetric;
        format.scales = scales;
        const Losses found = losses(format, 70, 88);  // a ragged tile of rows, a short last block
        EXPECT_LT(found.fast, 0.7 * found.nearest) << bits << symmetric << static_cast<int>(scales);
        EXPECT_LT(found.high, 1.0 * found.fast) << bits << symmetric << static_cast<int>(scales);
      }
    }
  }
}

TEST(Gptq, AWholeRowMayShareAScale) {
  BlockFormat format;
  format.block = 0;
  const Losses found = losses(format, 5, 40);
  EXPECT_LT(found.fast, 0.7 * found.nearest);
}

TEST(Gptq, UncorrelatedInputsGiveWeightsBackThatLieOnTheGrid) {
  BlockFormat format;
  format.block = 16;
  FloatRows w(3, 32);
  for (std::size_t i = 0; i < w.data.size(); ++i)
    w.data[i] = 0.5F * static_cast<float>(static_cast<int>(i * 5 % 16) - 8);
  Matrix gram = identity_matrix(32);
  const SweepInputs swept = *sweep_inputs(gram, 16, 0.1);
  GptqSettings settings;
  settings.format = format;
  EXPECT_EQ(dequantized(*gptq_sweep(w, swept, settings), format).data, w.data);
}

TEST(Gptq, DescentNeverRaisesTheLoss) {
  BlockFormat format;
  format.bits = 3;
  format.block = 32;
  const FloatRows x = inputs(300, 96, 2), w = weight(8, 96);
  Matrix gram;
  add_float_gram(gram, x);
  const SweepInputs swept = *sweep_inputs(gram, 32, 0.01);
  GptqSettings settings;
  settings.format = format;
  double before = 0;
  for (const int rounds : {0, 1, 2, 4}) {
    settings.descent = rounds;
    const double now = loss(w, dequantized(*gptq_sweep(w, swept, settings), format), gram);
    if (rounds > 0) {
      EXPECT_LT(now, before * 1.0001);
    }
    before = now;
  }
}

// A residual block: y = x + MatMul(Relu(MatMul(x, a)), b), and a table.
constexpr const char* kModel = R"(<ir_version: 8, opset_import: ["" : 17]>
g (int64[N] i) => (float[N, 64] y) <float[40, 64] t = {}, float[64, 96] a = {}, float[96, 64] b = {}, float[64] c = {}> {
  x = Gather(t, i)
  h = MatMul(x, a)
  r = Relu(h)
  p = MatMul(r, b)
  q = Add(p, c)
  y = Add(x, q)
})";

Dataset tokens(std::int64_t count) {
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(i * 7 % 40);
  Dataset data;
  for (int batch = 0; batch < 2; ++batch) {
    Feeds feeds;
    feeds["i"] = Datum(*to_array(Tensor::of<std::int64_t>({count}, ids), Precision::kFloat32));
    data.batches.push_back(std::move(feeds));
    data.batch_sizes.push_back(count);
  }
  return data;
}

struct Learned {
  std::unique_ptr<Model> model;
  Result<bool> changed = false;
  std::vector<Remark> remarks;
};

Learned run(const std::string& text, const Dataset* data, test::OptionMap options = {}) {
  Learned out;
  out.model = model_from_text(text);
  options.emplace("min-elements", "0");
  options.emplace("accuracy-level", "0");
  const PassInfo& info = *find_pass("gptq");
  const PassOptions parsed = *PassOptions::parse(info.name, info.options, options);
  PassContext context(*out.model, "gptq");
  context.calibration = data;
  out.changed = info.make(parsed)->run(out.model->graph(), context);
  out.remarks = context.take_remarks();
  return out;
}

std::vector<double> outputs(const Model& model, const Dataset& data) {
  const auto executor = Executor::create(model);
  const auto result = (*executor)->run(data.batches[0]);
  return *to_doubles(result->outputs[0].array);
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

TEST(Gptq, BeatsSearchedRoundingAndTheCorrectedTargetBeatsNone) {
  const Dataset data = tokens(600);
  const auto before = model_from_text(kModel);
  const auto wanted = outputs(*before, data);
  const auto searched = model_from_text(kModel);
  ASSERT_TRUE(
      *test::run_pass("rtn-search", *searched, {{"min-elements", "0"}, {"accuracy-level", "0"}, {"bits", "2"}}));
  const Learned plain = run(kModel, &data, {{"target", "false"}, {"bits", "2"}});
  const Learned aimed = run(kModel, &data, {{"bits", "2"}});
  ASSERT_TRUE(aimed.changed && *aimed.changed);
  EXPECT_TRUE(verify(*aimed.model));
  EXPECT_EQ(aimed.model->graph().nodes_of("MatMulNBits", "com.microsoft").size(), 2U);
  EXPECT_EQ(aimed.model->graph().nodes_of("GatherBlockQuantized", "com.microsoft").size(), 1U);
  // The table is rounded in all three, and that is most of the error.
  EXPECT_LT(distance(outputs(*plain.model, data), wanted), distance(outputs(*searched, data), wanted));
  EXPECT_LT(distance(outputs(*aimed.model, data), wanted), distance(outputs(*plain.model, data), wanted));
}

TEST(Gptq, SaysHowGoodTheDataAre) {
  const Dataset data = tokens(100);
  const Learned few = run(kModel, &data);
  bool warned = false, judged = false;
  for (const Remark& remark : few.remarks) {
    warned = warned || remark.reason.find("more data would help") != std::string::npos;
    judged = judged || remark.reason.find("held-out output error") != std::string::npos;
  }
  EXPECT_TRUE(warned);
  EXPECT_TRUE(judged);
}

TEST(Gptq, SameBytesAtAnyThreadCount) {
  const Dataset data = tokens(300);
  const int before = threads();
  std::vector<std::vector<double>> found;
  for (const int count : {1, 2}) {
    set_threads(count);
    found.push_back(outputs(*run(kModel, &data, {{"quality", "high"}, {"bits", "3"}}).model, data));
  }
  set_threads(before);
  EXPECT_EQ(found[0], found[1]);
}

TEST(Gptq, GemmSharedWeightsAndStandardForm) {
  constexpr const char* kGemm = R"(<ir_version: 8, opset_import: ["" : 17]>
g (int64[N] i) => (float[N, 64] y) <float[40, 64] t = {}, float[64, 64] w = {}, float[64] c = {}> {
  x = Gather(t, i)
  h = Gemm <transB = 1, alpha = 0.5> (x, w, c)
  y = Gemm <transB = 1, alpha = 0.5> (h, w, c)
})";
  const Dataset data = tokens(300);
  const auto wanted = outputs(*model_from_text(kGemm), data);
  const Learned found = run(kGemm, &data, {{"form", "dequantizelinear"}, {"gather", "false"}, {"bits", "8"}});
  ASSERT_TRUE(found.changed && *found.changed) << found.changed.error().message;
  EXPECT_TRUE(verify(*found.model));
  const std::vector<double> zero(wanted.size(), 0);
  EXPECT_LT(distance(outputs(*found.model, data), wanted), 0.02 * distance(wanted, zero));
}

TEST(Gptq, NeedsData) {
  const Learned none = run(kModel, nullptr);
  ASSERT_FALSE(none.changed);
  EXPECT_NE(none.changed.error().message.find("--calibration"), std::string::npos);
}

TEST(Gptq, WhatDataDoNotReachIsRoundedWithoutThem) {
  constexpr const char* kLeft = R"(<ir_version: 8, opset_import: ["" : 17]>
g (int64[N] i) => (float[64, N] y) <float[40, 64] t = {}, float[64, 64] w = {}> {
  x = Gather(t, i)
  y = Gemm <transA = 1, transB = 1> (w, x)
})";
  const Dataset data = tokens(10);
  const Learned found = run(kLeft, &data);
  ASSERT_TRUE(found.changed && *found.changed);  // the table
  EXPECT_EQ(found.model->graph().nodes_of("Gemm").size(), 1U);
}

}  // namespace
}  // namespace onnxfold::gptq_test
