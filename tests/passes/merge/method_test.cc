#include "passes/merge/method.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "analysis/structure/correspondence.h"
#include "passes/merge/controls.h"
#include "passes/merge/merge_in_parts.h"
#include "passes/merge/weights.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::method_test {
namespace {

using test::model_from_text;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

MergeInput input(std::vector<Numbers> parents, std::vector<double> weights, Numbers base = {}) {
  return {std::move(parents), std::move(base), std::move(weights), 7};
}

TEST(MergeMethods, AverageOfEqualModelsKeepsTheBits) {
  const Numbers w = {0.1, -1.0 / 3, 1e-30};
  EXPECT_EQ(*average(input({w, w, w}, {0.3, 0.3, 0.4}), {}), w);
  EXPECT_THAT(*average(input({{1, 2}, {3, 6}}, {1, 3}), {}), ElementsAre(2.5, 5));
  EXPECT_EQ(*average(input({w, {5, 5, 5}}, {1, 0}), {}), w);
  EXPECT_FALSE(average(input({{1}, {2}}, {1, -1}), {}).has_value());
}

TEST(MergeMethods, SlerpGoesAlongTheArc) {
  MergeSettings half;
  half.t = 0.5;
  const double root = std::sqrt(0.5);
  EXPECT_THAT(*slerp(input({{1, 0}, {0, 1}}, {1, 1}), half),
              ElementsAre(DoubleNear(root, 1e-15), DoubleNear(root, 1e-15)));
  MergeSettings end;
  end.t = 0;
  EXPECT_THAT(*slerp(input({{1, 0}, {0, 1}}, {1, 1}), end), ElementsAre(1, 0));
  EXPECT_THAT(*slerp(input({{2, 2}, {4, 4}}, {1, 1}), half), ElementsAre(3, 3));  // parallel
  EXPECT_FALSE(slerp(input({{1}, {2}, {3}}, {1, 1, 1}), half).has_value());
}

TEST(MergeMethods, TaskArithmeticAddsTaskVectors) {
  MergeSettings settings;
  settings.lambda = 0.5;
  EXPECT_THAT(*task_arithmetic(input({{2, 1}, {1, 5}}, {1, 2}, {1, 1}), settings), ElementsAre(1.5, 5));
  settings.normalize = true;
  settings.lambda = 1;
  EXPECT_THAT(*task_arithmetic(input({{2, 1}, {1, 4}}, {1, 2}, {1, 1}), settings), ElementsAre(1 + 1.0 / 3, 3));
}

TEST(MergeMethods, TiesTrimsElectsAndMerges) {
  MergeSettings settings;
  settings.density = 0.5;
  // Task vectors [4, 1, -3, 0] and [-2, 0, -5, 1]; trimmed [4, 0, -3, 0] and [-2, 0, -5, 0]; signs +, 0, -, 0.
  EXPECT_THAT(*ties(input({{5, 2, -2, 1}, {-1, 1, -4, 2}}, {1, 1}, {1, 1, 1, 1}), settings), ElementsAre(5, 1, -3, 1));
  settings.density = 1;
  const Numbers base = {1, 2, 3};
  EXPECT_EQ(*ties(input({base, base}, {1, 1}, base), settings), base);
  settings.density = 0;
  EXPECT_EQ(*ties(input({{9, 9, 9}, {8, 8, 8}}, {1, 1}, base), settings), base);
}

TEST(MergeMethods, DareKeepsTheExpectationAndTheSeed) {
  MergeSettings settings;
  settings.density = 0.25;
  const Numbers base(40000, 1.0), tuned(40000, 2.0);
  const Numbers merged = *dare(input({tuned}, {1}, base), settings);
  double sum = 0;
  for (const double x : merged) {
    EXPECT_TRUE(x == 1 || x == 5) << x;
    sum += x - 1;
  }
  EXPECT_NEAR(sum / 40000, 1, 0.05);
  EXPECT_EQ(merged, *dare(input({tuned}, {1}, base), settings));
  settings.density = 1;
  EXPECT_EQ(*dare(input({tuned}, {1}, base), settings), tuned);
}

TEST(MergeMethods, ModelStockGoesAsFarAsTheModelsAgree) {
  const Numbers base = {0, 0};
  EXPECT_THAT(*model_stock(input({{1, 0}, {1, 0}}, {1, 1}, base), {}), ElementsAre(DoubleNear(1, 1e-15), 0));
  EXPECT_THAT(*model_stock(input({{1, 0}, {0, 1}}, {1, 1}, base), {}), ElementsAre(0, 0));  // no agreement: the base
}

// ---- whole models ----

std::unique_ptr<Model> net(const std::string& w = "float[2, 2] w = {1, 2, 3, 4}",
                           const std::string& b = "float[2] b = {1, 1}") {
  return model_from_text("<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 2] x) => (float[N, 2] y) <" + w +
                         ", " + b + ", float half = {0.5}> { h = MatMul(x, w) s = Mul(h, half) y = Add(s, b) }");
}

std::vector<double> weight(const Model& model, const std::string& name) {
  return *to_doubles(*parameter(model.graph().find(name)));
}

TEST(MergeWeights, MergesIntoACopyOfTheAnchor) {
  const auto a = net(), b = net("float[2, 2] w = {3, 2, 1, 0}");
  const auto merged = merge_weights({a.get(), b.get()}, nullptr, {average, {1, 1}, {}, {}, 0});
  ASSERT_TRUE(merged.has_value()) << merged.error().message;
  EXPECT_THAT(weight(**merged, "w"), ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(weight(**merged, "half"), ElementsAre(0.5));
  EXPECT_THAT(weight(*b, "w"), ElementsAre(3, 2, 1, 0));
}

TEST(MergeWeights, PatternsChooseWeights) {
  const auto a = net(), b = net("float[2, 2] w = {3, 2, 1, 0}", "float[2] b = {5, 5}");
  PlainMerge merge{average, {1, 1}, {}, {}, 0};
  merge.rules.push_back({"b*", {1, 0}, {}, false});
  const auto merged = merge_weights({a.get(), b.get()}, nullptr, merge);
  ASSERT_TRUE(merged.has_value()) << merged.error().message;
  EXPECT_THAT(weight(**merged, "b"), ElementsAre(1, 1));
  EXPECT_THAT(weight(**merged, "w"), ElementsAre(2, 2, 2, 2));
  merge.rules.push_back({"nothing*", {1, 0}, {}, false});
  EXPECT_THAT(merge_weights({a.get(), b.get()}, nullptr, merge).error().message, HasSubstr("matches no weight"));
}

TEST(MergeWeights, RefusesWhatCannotBeMerged) {
  const auto a = net();
  const auto wide = model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 3] x) => (float[N, 2] y) <float[3, 2] w = {}, float[2] b "
      "= {}, float half = {0.5}> { h = MatMul(x, w) s = Mul(h, half) y = Add(s, b) }");
  const PlainMerge merge{average, {1, 1}, {}, {}, 0};
  EXPECT_THAT(merge_weights({wide.get(), a.get()}, nullptr, merge).error().message, HasSubstr("different widths"));
  auto bad = net();
  const float nan = std::nanf("");
  replace_constant(*bad->graph().find("w"), Tensor::of<float>({2, 2}, {1.0F, nan, 2.0F, 3.0F}));
  const auto merged = merge_weights({bad.get(), a.get()}, nullptr, merge);
  ASSERT_TRUE(merged.has_value());
  EXPECT_THAT(parameter((*merged)->graph().find("w"))->bytes().error().message, HasSubstr("holds NaN at element 1"));
}

// ---- in parts ----

// Values with many equal magnitudes, so that thresholds have ties.
Tensor coarse(std::int64_t size, int seed, DType dtype) {
  Numbers values(static_cast<std::size_t>(size));
  std::uint64_t state = static_cast<std::uint64_t>(seed) * 977 + 1;
  for (double& x : values) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    x = static_cast<double>(static_cast<std::int64_t>(state >> 58) - 32) / 16;
  }
  return *from_doubles(dtype, {size}, values);
}

TEST(MergeInParts, SameBitsWhateverTheSizeOfParts) {
  for (const MergeMethod& method : merge_methods()) {
    if (method.combine == nullptr) continue;
    for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
      for (const double density : {0.0, 0.3, 0.55, 1.0}) {
        MergeSettings settings;
        settings.t = 0.3;
        settings.density = std::max(density, 0.001);
        WeightMerge merge{"w", {}, {}, {1, 2}, settings, method.combine, 5};
        for (const int seed : {1, 2}) merge.parents.push_back(coarse(1003, seed, dtype));
        if (method.needs_base) merge.base = coarse(1003, 3, dtype);
        const Result<Buffer> whole = merge();
        ASSERT_TRUE(whole.has_value()) << whole.error().message;
        for (const std::int64_t part : {8, 64, 1000}) {
          merge.part = part;
          EXPECT_TRUE(*merge() == *whole) << method.name << " in parts of " << part << ", density " << density;
        }
      }
    }
  }
}

TEST(MergeInParts, WhatIsTheSameEverywhereStaysAndErrorsCountFromTheFront) {
  const Tensor w = coarse(100, 1, DType::kFloat32);
  WeightMerge merge{"w", {w, coarse(100, 1, DType::kFloat32)}, {}, {1, 2}, {}, average, 5, 16};
  const Bytes bytes = *w.bytes();
  EXPECT_TRUE(*merge() == Buffer(bytes.span().begin(), bytes.span().end()));
  Numbers values(100, 1);
  values[77] = NAN;
  merge.parents[1] = *from_doubles(DType::kFloat32, {100}, values);
  EXPECT_EQ(merge().error().message, "weight 'w' of model 2 holds NaN at element 77");
  merge.combine = slerp;
  merge.parents = {w, coarse(100, 2, DType::kFloat32), coarse(100, 3, DType::kFloat32)};
  EXPECT_THAT(merge().error().message, HasSubstr("exactly two models"));
}

TEST(MergeControls, HalfAnchorHalvesWhatDiffers) {
  const auto a = net(), b = net("float[2, 2] w = {3, 2, 1, 0}");
  const auto half = half_anchor({a.get(), b.get()});
  ASSERT_TRUE(half.has_value());
  EXPECT_THAT(weight(**half, "w"), ElementsAre(1.5, 1, 0.5, 0));
  EXPECT_THAT(weight(**half, "b"), ElementsAre(1, 1));
  EXPECT_THAT(weight(**half, "half"), ElementsAre(0.5));
}

}  // namespace
}  // namespace onnxfold::method_test
