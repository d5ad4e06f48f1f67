#include <algorithm>

#include "analysis/algebra/matrix.h"
#include "analysis/compare/damage.h"
#include "passes/width/rank_budget.h"
#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::low_rank_test {
namespace {

using test::model_from_text;

const test::OptionMap kHalf = {{"min-elements", "0"}, {"ratio", "0.5"}};

constexpr const char* kTwo = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N, T, 16] x) => (float[N, T, 16] y) <float[16, 32] u = {}, float[32] c = {}, float[32, 16] d = {}> {
  p = MatMul(x, u) h = Add(p, c) r = Relu(h) y = MatMul(r, d) })";

std::int64_t parameters(const Graph& graph) {
  std::int64_t count = 0;
  for (const Value* value : graph.initializers()) count += value->initializer()->size();
  return count;
}

double error_of(const Model& original, const Model& changed, const Dataset& data) {
  return DamageMeter::create(original, data)->measure(changed)->value;
}

TEST(LowRank, EveryWeightBecomesTwoThinOnes) {
  const auto model = model_from_text(kTwo);
  const auto changed = test::run_pass("low-rank", *model, kHalf);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(model->graph().nodes_of("MatMul").size(), 4U);
  EXPECT_LE(parameters(model->graph()), 512 + 32);
  EXPECT_EQ(model->graph().find("u"), nullptr);
}

TEST(LowRank, AllOfTheParametersIsNoChange) {
  test::expect_unchanged("low-rank", kTwo, {{"min-elements", "0"}, {"ratio", "1"}});
  test::expect_unchanged("low-rank", kTwo, {{"min-elements", "0"}, {"ratio", "1"}, {"spread", "uniform"}});
}

TEST(LowRank, SmallSharedAndExcludedWeightsStay) {
  test::expect_unchanged("low-rank", kTwo);
  test::expect_unchanged("low-rank", kTwo, {{"min-elements", "0"}, {"exclude", "u;d"}});
  test::expect_unchanged("low-rank", R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[4, 16] x) => (float[4, 16] y) <float[16, 16] w = {}> { a = MatMul(x, w) y = MatMul(a, w) })",
                         kHalf);
}

// A weight of rank 2 loses nothing at rank 2 or more.
TEST(LowRank, ALowRankWeightIsFoundExactly) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[N, T, 8] x) => (float[N, T, 8] y) <float[8, 8] w = {}> { y = MatMul(x, w) })");
  std::vector<double> numbers(64);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) numbers[static_cast<std::size_t>(i * 8 + j)] = (i + 1) * (j - 3) + (i % 2) * (j % 3);
  }
  Value* w = model->graph().find("w");
  model->graph().replace_all_uses(
      *w, *model->graph().add_initializer("v", *from_doubles(DType::kFloat32, {8, 8}, numbers)));
  const auto original = model->clone();
  const Dataset data = test::normal_data(8, 8, 8);
  const auto changed = test::run_on_data("low-rank", *model, data, kHalf);
  ASSERT_TRUE(changed && *changed) << (changed ? "" : changed.error().message);
  EXPECT_EQ(model->graph().nodes_of("MatMul").size(), 2U);
  EXPECT_LT(error_of(*original, *model, data), 1e-5);
}

TEST(LowRank, DataLowersTheError) {
  const auto original = model_from_text(kTwo), plain = model_from_text(kTwo), whitened = model_from_text(kTwo);
  Dataset data = test::normal_data(16, 8, 16);
  for (Feeds& feeds : data.batches) {  // inputs that differ in size
    std::vector<double> numbers = *to_doubles(feeds["x"].array);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] *= i % 16 < 4 ? 10 : 0.3;
    feeds["x"] =
        Datum(*to_array(*from_doubles(DType::kFloat32, feeds["x"].array.dims(), numbers), Precision::kFloat32));
  }
  ASSERT_TRUE(test::run_pass("low-rank", *plain, kHalf));
  ASSERT_TRUE(test::run_on_data("low-rank", *whitened, data, kHalf));
  EXPECT_LT(error_of(*original, *whitened, data), 0.5 * error_of(*original, *plain, data));
}

// Whitened or not: what is rounded to few bits afterwards errs no more than the weight itself would.
TEST(LowRank, FirstFactorsHaveOrthonormalColumns) {
  const auto model = model_from_text(kTwo);
  ASSERT_TRUE(test::run_on_data("low-rank", *model, test::normal_data(16, 8, 16), kHalf));
  int checked = 0;
  for (const Node* node : model->graph().nodes_of("MatMul")) {
    const Tensor* weight = node->input(1)->constant();
    if (!node->output()->name().ends_with("_thin")) continue;
    const std::int64_t rank = weight->dims()[1];
    const Matrix a(weight->dims()[0], rank, *to_doubles(*weight));
    EXPECT_LT(frobenius_norm(sum(product(a, a, true), identity_matrix(rank), -1)), 1e-5);
    ++checked;
  }
  EXPECT_EQ(checked, 2);
}

TEST(LowRank, TargetOfTheWholeModel) {
  const auto model = model_from_text(kTwo);
  ASSERT_TRUE(test::run_pass("low-rank", *model, {{"min-elements", "0"}, {"target-params", "600"}}));
  EXPECT_LE(parameters(model->graph()), 600);
  EXPECT_GT(parameters(model->graph()), 500);
}

TEST(RankBudget, ParametersGoWhereTheErrorIs) {
  const std::vector<RankCurve> curves = {{8, 8, {9, 8, 7, 6, 5, 4, 3, 2}},
                                         {8, 8, {9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}}};
  EXPECT_EQ(uniform_ranks(curves, 64), (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(ranks_by_error(curves, 64, 0), (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(uniform_ranks(curves, 128), (std::vector<std::int64_t>{0, 0}));
}

TEST(RankBudget, HarmDecidesWhoseErrorCounts) {
  const std::vector<RankCurve> curves = {{8, 8, {4, 4, 4, 4, 4, 4, 4, 4}}, {8, 8, {4, 4, 4, 4, 4, 4, 4, 4}}};
  EXPECT_EQ(ranks_by_harm(curves, 64, {10, 1}), (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(ranks_by_harm(curves, 64, {1, 10}), (std::vector<std::int64_t>{1, 3}));
  EXPECT_EQ(ranks_by_harm(curves, 64, {1, 10}, 1), (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(tail_of(curves[0], 6), 32);
}

// The second weight's output hardly reaches the end: its rank goes to the first.
TEST(LowRank, RanksGoWhereTheModelFeelsThem) {
  const auto text = [](const char* shrink) {
    return std::string(R"(<ir_version: 8, opset_import: ["" : 17]> g (float[N, T, 16] x) => (float[N, T, 16] y)
      <float[16, 16] u = {}, float[16, 16] d = {}, float[1] s = {)") +
           shrink + "}> { p = MatMul(x, u) q = MatMul(x, d) r = Mul(q, s) y = Add(p, r) }";
  };
  const auto ranks = [&](const char* shrink) {
    const auto model = model_from_text(text(shrink));
    const auto changed = test::run_on_data("low-rank", *model, test::normal_data(16, 8, 16),
                                           {{"min-elements", "0"}, {"ratio", "0.75"}, {"refit", "false"}});
    EXPECT_TRUE(changed && *changed);
    return model->graph().find("p")->producer()->input(1)->static_dims()->at(0);
  };
  EXPECT_GT(ranks("0.01"), ranks("100"));
}

}  // namespace
}  // namespace onnxfold::low_rank_test
