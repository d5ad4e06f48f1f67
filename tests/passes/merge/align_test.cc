// align and permute: copies of a model in another basis come back, and nothing that is written loses its function.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/algebra/assignment.h"
#include "analysis/algebra/orthogonal.h"
#include "analysis/structure/axis_groups.h"
#include "analysis/structure/correspondence.h"
#include "formats/onnx/onnx_file.h"
#include "passes/merge/alignment.h"
#include "passes/merge/method.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::align_test {
namespace {

using test::difference;
using test::disguised;
using test::largest_difference;
using test::model_from_text;
using test::random_matrix;
using test::set_weight;
using test::transformer;

constexpr std::int64_t kWidth = 12, kHidden = 20;

TEST(AxisGroups, OfATransformer) {
  const auto model = transformer();
  const AxisGroups found = find_axis_groups(model->graph());
  ASSERT_EQ(found.groups.size(), 3U);
  EXPECT_EQ(found.attentions.size(), 2U);
  const AxisGroup& stream = found.groups[0];
  EXPECT_EQ(stream.size, kWidth);
  EXPECT_TRUE(stream.centred);
  EXPECT_FALSE(stream.permutation_only);
  EXPECT_EQ(found.groups[1].size, kHidden);
  EXPECT_TRUE(found.groups[1].permutation_only);
}

TEST(AxisGroups, OfAConvolutionNet) {
  const auto model = model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 3, 8, 8] x) => (float[N, 5] y) <float[6, 3, 3, 3] c1 = "
      "{}, "
      "float[6] g = {}, float[6] b = {}, float[6] m = {}, float[6] v = {1,1,1,1,1,1}, float[6, 6, 3, 3] c2 = {}, "
      "float[6, "
      "5] w = {}> { a = Conv <pads = [1,1,1,1]> (x, c1) n = BatchNormalization(a, g, b, m, v) r = Relu(n) c = Conv "
      "<pads = "
      "[1,1,1,1]> (r, c2) s = Add(r, c) p = GlobalAveragePool(s) f = Flatten(p) y = MatMul(f, w) }");
  const AxisGroups found = find_axis_groups(model->graph());
  ASSERT_EQ(found.groups.size(), 1U);
  EXPECT_TRUE(found.groups[0].permutation_only);
  EXPECT_EQ(found.groups[0].constants.size(), 8U);  // c1, four of the norm, c2 twice, w
}

TEST(AxisGroups, InputsAndOutputsAreFixed) {
  const auto model = model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 4] x) => (float[N, 4] y) <float[4, 4] w = {}, float[4] b "
      "= "
      "{}> { h = MatMul(x, w) y = Add(h, b) }");
  EXPECT_TRUE(find_axis_groups(model->graph()).groups.empty());
}

class AlignModel : public ::testing::TestWithParam<bool> {};

TEST_P(AlignModel, ADisguisedCopyComesBack) {
  const bool rotate = GetParam();
  const auto anchor = transformer();
  const auto copy = disguised(*anchor, rotate);
  ASSERT_EQ(difference(*anchor, *copy, Precision::kFloat32, 1e-5), "");
  const Dataset data = *generate_dataset(*anchor, 3);
  const auto aligned = align_model(*copy, *anchor, {rotate, &data, 30});
  ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
  EXPECT_EQ(difference(*copy, *aligned->model, Precision::kFloat32, 1e-5), "");
  EXPECT_LT(largest_difference(*aligned->model, *anchor), rotate ? 2e-5 : 1e-30);
}

INSTANTIATE_TEST_SUITE_P(Rotate, AlignModel, ::testing::Bool());

TEST(AlignModel, AnotherModelKeepsItsFunction) {
  const auto anchor = transformer(), other = transformer();
  for (const std::string name : {"wq0", "wk1", "up0", "embed"}) {
    const Dims dims = parameter(other->graph().find(name))->dims();
    set_weight(*other, name, random_matrix(dims[0], dims[1], 5));
  }
  for (const bool rotate : {false, true}) {
    const auto aligned = align_model(*other, *anchor, {rotate, nullptr, 30});
    ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
    EXPECT_EQ(difference(*other, *aligned->model, Precision::kFloat32, 2e-5), "");
    EXPECT_LE(aligned->distance, aligned->distance_before);
  }
}

TEST(AlignModel, ItselfStaysAsItIs) {
  const auto anchor = transformer(), same = transformer();
  const Dataset data = *generate_dataset(*anchor, 3);
  const auto aligned = align_model(*same, *anchor, {true, &data, 30});
  ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
  EXPECT_EQ(largest_difference(*aligned->model, *anchor), 0);
}

TEST(AlignPass, WritesTheModelInTheOthersBasis) {
  const auto anchor = transformer();
  const auto copy = disguised(*anchor, false);
  const std::string path = ::testing::TempDir() + "/align_anchor.onnx";
  SaveOptions save;
  save.overwrite = true;
  ASSERT_TRUE(save_model(*anchor, path, save).has_value());
  const auto before = copy->clone();
  const auto changed = test::run_pass("align", *copy, {{"to", path}});
  ASSERT_TRUE(changed.has_value()) << changed.error().message;
  EXPECT_TRUE(*changed);
  EXPECT_EQ(difference(*before, *copy, Precision::kFloat32, 1e-5), "");
  EXPECT_LT(largest_difference(*copy, *anchor), 1e-5);
  EXPECT_FALSE(test::run_pass("align", *anchor->clone(), {}).has_value());  // no model to align to
}

// fold-norm-affine in front of align leaves the model without biases that the anchor's file still has.
TEST(AlignPass, FoldsTheAnchorsNormsWhereThoseOfTheModelAre) {
  const std::string text = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[B, 6] x) => (float[B, 3] y) <float[6, 6] e = {}, float[6] gain = {1, 2, 0.5, 1.5, 0.7, 1.2},
    float[6] shift = {0.1, -0.2, 0.3, 0.2, -0.1, 0.4}, float[6, 8] up = {}, float[8] b = {}, float[8, 6] down = {},
    float[6, 3] head = {}, float[3] c = {}> {
  s = MatMul(x, e) n = LayerNormalization(s, gain, shift) u = MatMul(n, up) v = Add(u, b) r = Relu(v)
  d = MatMul(r, down) t = Add(s, d) p = LayerNormalization(t, gain, shift) h = MatMul(p, head) y = Add(h, c)
})";
  const auto anchor = model_from_text(text), model = model_from_text(text);
  const std::string path = ::testing::TempDir() + "/align_folded_anchor.onnx";
  SaveOptions save;
  save.overwrite = true;
  ASSERT_TRUE(save_model(*anchor, path, save).has_value());
  const auto before = model->clone();
  const auto folded = test::run_pass("fold-norm-affine", *model);
  ASSERT_TRUE(folded && *folded);
  const auto changed = test::run_pass("align", *model, {{"to", path}});
  ASSERT_TRUE(changed.has_value()) << changed.error().message;
  EXPECT_EQ(difference(*before, *model, Precision::kFloat32, 1e-5), "");
}

TEST(Assignment, IsTheBestOfAllPermutations) {
  for (std::uint32_t seed = 0; seed < 20; ++seed) {
    const Matrix value = random_matrix(5, 5, seed);
    std::vector<std::int64_t> order = {0, 1, 2, 3, 4};
    double best = -1e9;
    do {
      double total = 0;
      for (std::int64_t i = 0; i < 5; ++i) total += value.at(i, order[static_cast<std::size_t>(i)]);
      best = std::max(best, total);
    } while (std::next_permutation(order.begin(), order.end()));
    const std::vector<std::int64_t> found = best_assignment(value);
    double total = 0;
    for (std::int64_t i = 0; i < 5; ++i) total += value.at(i, found[static_cast<std::size_t>(i)]);
    EXPECT_NEAR(total, best, 1e-12);
  }
}

TEST(Orthogonal, ProcrustesFindsTheRotation) {
  const Matrix rotation = procrustes(random_matrix(6, 6, 1));
  const Matrix x = random_matrix(40, 6, 2);
  const Matrix found = procrustes(product(x, product(x, rotation), true));
  EXPECT_LT(frobenius_norm(sum(found, rotation, -1)), 1e-10);
}

TEST(Orthogonal, CentredProcrustesKeepsOnes) {
  const Matrix map = centred_procrustes(random_matrix(7, 7, 3));
  EXPECT_LT(frobenius_norm(sum(product(map, map, true), identity_matrix(7), -1)), 1e-12);
  for (std::int64_t i = 0; i < 7; ++i) {
    double row = 0;
    for (std::int64_t j = 0; j < 7; ++j) row += map.at(i, j);
    EXPECT_NEAR(row, 1, 1e-12);
  }
}

}  // namespace
}  // namespace onnxfold::align_test
