// align and permute: copies of a model in another basis come back, and nothing that is written loses its function.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "analysis/algebra/assignment.h"
#include "analysis/algebra/orthogonal.h"
#include "analysis/structure/axis_groups.h"
#include "analysis/structure/correspondence.h"
#include "formats/onnx/onnx_file.h"
#include "passes/merge/alignment.h"
#include "passes/merge/method.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold {
namespace {

using test::difference;
using test::model_from_text;

constexpr std::int64_t kWidth = 12, kHeads = 3, kHead = 4, kHidden = 20;

// Two pre-norm blocks behind an embedding; norms have no gains, as fold-norm-affine leaves them.
std::unique_ptr<Model> transformer() {
  std::string weights =
      "float[7, 12] embed = {}, float[1, 5, 12] pos = {}, float[12, 3] head = {}, int64[4] split = "
      "{0, 5, 3, 4}, int64[3] join = {0, 5, 12}, float scale = {0.5}, float[12] ones = "
      "{1,1,1,1,1,1,1,1,1,1,1,1}";
  std::string nodes = "e = Gather(embed, x) s0 = Add(e, pos) ";
  for (const std::string i : {"0", "1"}) {
    for (const std::string w : {"q", "k", "v", "o"}) {
      weights += ", float[12, 12] w" + w + i + " = {}, float[12] b" + w + i + " = {}";
    }
    weights += ", float[12, 20] up" + i + " = {}, float[20] bu" + i + " = {}, float[20, 12] down" + i + " = {}";
    const std::string s = "s" + i, t = i == "0" ? "s1" : "s2";
    nodes += "n" + i + " = LayerNormalization(" + s + ", ones) ";
    for (const std::string p : {"q", "k", "v"}) {
      const std::string perm = p == "k" ? "[0, 2, 3, 1]" : "[0, 2, 1, 3]";
      nodes += p + "m" + i + " = MatMul(n" + i + ", w" + p + i + ") " + p + "a" + i + " = Add(" + p + "m" + i + ", b" +
               p + i + ") " + p + "r" + i + " = Reshape(" + p + "a" + i + ", split) " + p + i +
               " = Transpose <perm = " + perm + "> (" + p + "r" + i + ") ";
    }
    nodes += "c" + i + " = MatMul(q" + i + ", k" + i + ") d" + i + " = Mul(c" + i + ", scale) p" + i +
             " = Softmax <axis = -1> (d" + i + ") z" + i + " = MatMul(p" + i + ", v" + i + ") y" + i +
             " = Transpose <perm = [0, 2, 1, 3]> (z" + i + ") j" + i + " = Reshape(y" + i + ", join) om" + i +
             " = MatMul(j" + i + ", wo" + i + ") oa" + i + " = Add(om" + i + ", bo" + i + ") h" + i + " = Add(" + s +
             ", oa" + i + ") ";
    nodes += "g" + i + " = LayerNormalization(h" + i + ", ones) um" + i + " = MatMul(g" + i + ", up" + i + ") ua" + i +
             " = Add(um" + i + ", bu" + i + ") ug" + i + " = Gelu(ua" + i + ") dn" + i + " = MatMul(ug" + i + ", down" +
             i + ") " + t + " = Add(h" + i + ", dn" + i + ") ";
  }
  nodes += "f = LayerNormalization(s2, ones) out = MatMul(f, head) ";
  return model_from_text("<ir_version: 8, opset_import: [\"\" : 20]> g (int64[B, 5] x) => (float[B, 5, 3] out) <" +
                         weights + "> { " + nodes + " }");
}

Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  Matrix result(rows, cols);
  for (double& x : result.data) x = normal(generator);
  return result;
}

void set_weight(Model& model, const std::string& name, const Matrix& values) {
  Value* value = model.graph().find(name);
  const Tensor old = *parameter(value);
  replace_constant(*value, *from_doubles(old.dtype(), old.dims(), values.data));
}

Matrix weight(const Model& model, const std::string& name, std::int64_t rows, std::int64_t cols) {
  return Matrix(rows, cols, *to_doubles(*parameter(model.graph().find(name))));
}

// The stream permuted, hidden units permuted, heads permuted and rotated inside: the same function.
std::unique_ptr<Model> disguised(const Model& model, bool rotate) {
  auto copy = model.clone();
  Matrix stream = permutation_matrix({5, 0, 7, 1, 11, 3, 2, 10, 4, 9, 6, 8});
  if (rotate) stream = centred_procrustes(random_matrix(kWidth, kWidth, 1));
  const auto columns = [&](const std::string& name, std::int64_t rows, const Matrix& map) {
    set_weight(*copy, name, product(weight(*copy, name, rows, map.rows), map));
  };
  const auto rows = [&](const std::string& name, const Matrix& map, std::int64_t cols) {
    set_weight(*copy, name, product(map, weight(*copy, name, map.rows, cols), true));
  };
  columns("embed", 7, stream);
  columns("pos", 5, stream);
  rows("head", stream, 3);
  for (const std::string i : {"0", "1"}) {
    std::vector<std::int64_t> order(kHidden);
    for (std::int64_t u = 0; u < kHidden; ++u) order[static_cast<std::size_t>(u)] = (u * 7 + 3) % kHidden;
    const Matrix units = permutation_matrix(order);
    Matrix scores(kWidth, kWidth), values(kWidth, kWidth);
    for (std::int64_t h = 0; h < kHeads; ++h) {
      const std::int64_t to = (h + 1) % kHeads;
      Matrix r = permutation_matrix({2, 0, 3, 1}), s = permutation_matrix({1, 3, 2, 0});
      if (rotate) r = procrustes(random_matrix(kHead, kHead, 10 + static_cast<std::uint32_t>(h)));
      if (rotate) s = procrustes(random_matrix(kHead, kHead, 20 + static_cast<std::uint32_t>(h)));
      for (std::int64_t a = 0; a < kHead; ++a) {
        for (std::int64_t b = 0; b < kHead; ++b) {
          scores.at(h * kHead + a, to * kHead + b) = r.at(a, b);
          values.at(h * kHead + a, to * kHead + b) = s.at(a, b);
        }
      }
    }
    for (const std::string w : {"q", "k", "v"}) {
      const Matrix& map = w == "v" ? values : scores;
      rows("w" + w + i, stream, kWidth);
      columns("w" + w + i, kWidth, map);
      columns("b" + w + i, 1, map);
    }
    rows("wo" + i, values, kWidth);
    columns("wo" + i, kWidth, stream);
    columns("bo" + i, 1, stream);
    rows("up" + i, stream, kHidden);
    columns("up" + i, kWidth, units);
    columns("bu" + i, 1, units);
    rows("down" + i, units, kWidth);
    columns("down" + i, kHidden, stream);
  }
  return copy;
}

double largest_difference(const Model& a, const Model& b) {
  double largest = 0;
  for (const Value* value : b.graph().initializers()) {
    const Value* other = a.graph().find(value->name());
    if (other == nullptr || !is_float(value->dtype())) continue;
    const auto x = to_doubles(*parameter(other)), y = to_doubles(*parameter(value));
    for (std::size_t i = 0; i < y->size(); ++i) largest = std::max(largest, std::abs((*x)[i] - (*y)[i]));
  }
  return largest;
}

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
}  // namespace onnxfold
