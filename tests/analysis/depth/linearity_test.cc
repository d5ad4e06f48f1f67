#include "analysis/depth/linearity.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/support/rewrite_test.h"

namespace onnxfold::linearity_test {
namespace {

constexpr int kLayers = 6;

std::vector<Matrix> normal_layers(int count, std::int64_t rows, std::int64_t cols) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  std::vector<Matrix> layers;
  for (int l = 0; l < count; ++l) {
    layers.emplace_back(rows, cols);
    for (double& number : layers.back().data) number = normal(random);
  }
  return layers;
}

// Blocks of x + down(relu(up(x))) whose weights `make` gives by layer.
std::unique_ptr<Model> stack(
    const std::function<double(int layer, const std::string& weight, std::int64_t row, std::int64_t col)>& make) {
  std::string constants, nodes, x = "x";
  for (int l = 0; l < kLayers; ++l) {
    constants += fmt::format("{}float[8, 16] u{} = {{}}, float[16, 8] d{} = {{}}", l == 0 ? "" : ", ", l, l);
    const std::string y = l + 1 == kLayers ? "y" : fmt::format("x{}", l + 1);
    nodes += fmt::format("p{0} = MatMul({1}, u{0}) h{0} = Relu(p{0}) o{0} = MatMul(h{0}, d{0}) {2} = Add({1}, o{0}) ",
                         l, x, y);
    x = y;
  }
  auto model =
      test::model_from_text("<ir_version: 8, opset_import: [\"\": 17]> g (float[N, T, 8] x) => (float[N, T, 8] y) <" +
                            constants + "> { " + nodes + " }");
  for (int l = 0; l < kLayers; ++l) {
    for (const std::string name : {"u", "d"}) {
      Value* old = model->graph().find(name + std::to_string(l));
      const Dims dims = old->constant()->dims();
      std::vector<double> numbers;
      for (std::int64_t i = 0; i < dims[0]; ++i) {
        for (std::int64_t j = 0; j < dims[1]; ++j) numbers.push_back(make(l, name, i, j));
      }
      Value* fresh = model->graph().add_initializer("w", *from_doubles(DType::kFloat32, dims, numbers));
      model->graph().replace_all_uses(*old, *fresh);
    }
  }
  return model;
}

double hash(std::int64_t a, std::int64_t b, std::int64_t c) {
  std::mt19937_64 random(static_cast<std::uint64_t>(a * 1000003 + b * 1009 + c));
  return std::normal_distribution<double>()(random);
}

TEST(Linearity, ALineIsFoundAgain) {
  const std::vector<Matrix> two = normal_layers(2, 5, 4);
  std::vector<Matrix> layers;
  for (int l = 0; l < 4; ++l) layers.push_back(sum(two[0], two[1], l / 4.0));
  const DepthLine line = fit_depth_line(layers);
  EXPECT_NEAR(line.explained, 1, 1e-12);
  EXPECT_NEAR(line.centred, 1, 1e-12);
  EXPECT_LT(frobenius_norm(sum(line.base, two[0], -1)), 1e-12);
  EXPECT_LT(frobenius_norm(sum(line.slope, two[1], -1)), 1e-12);
}

TEST(Linearity, IndependentLayersExplainTheNull) {
  for (const int layers : {6, 12, 24}) {
    const DepthLine line = fit_depth_line(normal_layers(layers, 60, 60));
    EXPECT_NEAR(line.explained, 2.0 / layers, 0.02);
    EXPECT_NEAR(line.centred, 1.0 / (layers - 1), 0.02);
  }
}

TEST(Linearity, RowsPerRoleOfALinearModel) {
  const auto model = stack([](int layer, const std::string& weight, std::int64_t i, std::int64_t j) {
    const int which = weight == "u" ? 1 : 2;
    return hash(which, i, j) + layer * 0.25 * hash(which + 10, i, j);
  });
  const auto rows = measure_linearity(find_blocks(model->graph()));
  ASSERT_TRUE(rows) << rows.error().message;
  ASSERT_EQ(rows->size(), 2U);
  for (const Linearity& row : *rows) {
    EXPECT_EQ(row.layers, 6U) << row.role;
    EXPECT_EQ(row.parameters, 6 * 128);
    EXPECT_GT(row.explained, 1 - 1e-10) << row.role;
    EXPECT_DOUBLE_EQ(row.null, 2.0 / 6);
  }
}

TEST(Linearity, ShuffledNeuronsAreFoundAgain) {
  const auto at = [](int layer, std::int64_t neuron) { return (neuron * (2 * layer + 1) + layer) % 16; };
  const auto model = stack([&](int layer, const std::string& weight, std::int64_t i, std::int64_t j) {
    return weight == "u" ? hash(1, i, at(layer, j)) : hash(2, at(layer, i), j);
  });
  const auto rows = measure_linearity(find_blocks(model->graph()));
  ASSERT_TRUE(rows) << rows.error().message;
  for (const Linearity& row : *rows) {
    EXPECT_LT(row.explained, 0.7) << row.role;
    ASSERT_TRUE(row.aligned) << row.role;
    EXPECT_GT(*row.aligned, 1 - 1e-10) << row.role;
  }
}

TEST(Linearity, SharedWeightsAndShortStacksHaveNoDepth) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, T, 8] x) => (float[N, T, 8] y) <float[8, 16] u = {}, float[16, 8] d = {}> {
      p = MatMul(x, u) h = Relu(p) o = MatMul(h, d) a = Add(x, o)
      q = MatMul(a, u) i = Relu(q) r = MatMul(i, d) b = Add(a, r)
      s = MatMul(b, u) j = Relu(s) t = MatMul(j, d) y = Add(b, t) })");
  EXPECT_TRUE(depth_families(find_blocks(model->graph())).empty());
}

}  // namespace
}  // namespace onnxfold::linearity_test
