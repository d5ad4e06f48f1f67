#include <algorithm>

#include "analysis/compare/damage.h"
#include "passes/width/removal_spread.h"
#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::prune_neurons_test {
namespace {

using test::model_from_text;

const test::OptionMap kQuarter = {{"ratio", "0.25"}, {"multiple", "1"}};

std::string layer(const std::string& constants, const std::string& nodes) {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, T, 8] x) => (float[N, T, 8] y) <" + constants +
         "> { " + nodes + " }";
}

const std::string kPlain = layer("float[8, 24] u = {}, float[24] b = {}, float[24, 8] d = {}, float[8] c = {}",
                                 "p = MatMul(x, u) q = Add(p, b) h = Relu(q) o = MatMul(h, d) y = Add(o, c)");
const std::string kGated = layer("float[8, 24] g = {}, float[8, 24] u = {}, float[24, 8] d = {}",
                                 "a = MatMul(x, g) s = Sigmoid(a) t = Mul(a, s) v = MatMul(x, u) h = Mul(t, v) "
                                 "y = MatMul(h, d)");

double error_of(const Model& original, const Model& changed, const Dataset& data) {
  return DamageMeter::create(original, data)->measure(changed)->value;
}

TEST(PruneNeurons, WeightsAndBiasGetNarrower) {
  const auto model = model_from_text(kPlain);
  const auto changed = test::run_pass("prune-neurons", *model, kQuarter);
  ASSERT_TRUE(changed && *changed);
  const auto products = model->graph().nodes_of("MatMul");
  EXPECT_EQ(products[0]->input(1)->static_dims(), (Dims{8, 18}));
  EXPECT_EQ(products[1]->input(1)->static_dims(), (Dims{18, 8}));
  EXPECT_EQ(model->graph().nodes_of("Add")[0]->input(1)->static_dims(), (Dims{18}));
}

TEST(PruneNeurons, GatedLayers) {
  const auto model = model_from_text(kGated);
  const auto changed = test::run_on_data("prune-neurons", *model, test::normal_data(16, 8, 8), kQuarter);
  ASSERT_TRUE(changed && *changed) << (changed ? "" : changed.error().message);
  for (const Node* node : model->graph().nodes_of("MatMul")) {
    const Dims dims = *node->input(1)->static_dims();
    EXPECT_TRUE(dims == (Dims{8, 18}) || dims == (Dims{18, 8}));
  }
}

TEST(PruneNeurons, NothingAskedForNothingChanged) { test::expect_unchanged("prune-neurons", kPlain, {{"ratio", "0"}}); }

TEST(PruneNeurons, SharedWeightsAndOtherShapesStay) {
  test::expect_unchanged("prune-neurons", layer("float[8, 8] u = {}", "p = MatMul(x, u) h = Relu(p) y = MatMul(h, u)"));
  test::expect_unchanged("prune-neurons", layer("float[8, 24] u = {}, float[24] k = {}, float[24, 8] d = {}",
                                                "p = MatMul(x, u) h = Relu(p) m = Mul(h, k) y = MatMul(m, d)"));
}

// Neurons that say the same as others cost nothing.
TEST(PruneNeurons, RedundantNeuronsGoForNothing) {
  const auto model = model_from_text(kPlain);
  for (const char* name : {"u", "b"}) {
    Value* value = model->graph().find(name);
    std::vector<double> numbers = *to_doubles(*value->constant());
    const Dims dims = value->constant()->dims();
    const std::size_t rows = numbers.size() / 24;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t j = 18; j < 24; ++j) numbers[row * 24 + j] = numbers[row * 24 + j - 18];
    }
    Value* made = model->graph().add_initializer("new", *from_doubles(DType::kFloat32, dims, numbers));
    model->graph().replace_all_uses(*value, *made);
  }
  const auto original = model->clone();
  const Dataset data = test::normal_data(16, 8, 8);
  ASSERT_TRUE(test::run_on_data("prune-neurons", *model, data, kQuarter));
  EXPECT_LT(error_of(*original, *model, data), 1e-2);
}

TEST(PruneNeurons, RefitHalvesTheDamageOfMagnitude) {
  const auto original = model_from_text(kPlain), plain = model_from_text(kPlain), fitted = model_from_text(kPlain);
  const Dataset data = test::normal_data(16, 8, 8);
  ASSERT_TRUE(test::run_on_data("prune-neurons", *plain, data,
                                {{"ratio", "0.25"}, {"multiple", "1"}, {"score", "magnitude"}, {"refit", "false"}}));
  ASSERT_TRUE(test::run_on_data("prune-neurons", *fitted, data, kQuarter));
  EXPECT_LT(error_of(*original, *fitted, data), 0.5 * error_of(*original, *plain, data));
}

// 8 * 24 + 24 + 24 * 8 (+ 8): one neuron has 17 parameters.
TEST(PruneNeurons, TargetOfTheWholeModel) {
  const std::int64_t all = float_parameters(model_from_text(kPlain)->graph());
  for (const bool with_data : {false, true}) {
    const auto model = model_from_text(kPlain);
    const test::OptionMap options = {{"target-params", std::to_string(all - 80)}, {"multiple", "1"}};
    const Result<bool> changed = with_data
                                     ? test::run_on_data("prune-neurons", *model, test::normal_data(16, 8, 8), options)
                                     : test::run_pass("prune-neurons", *model, options);
    ASSERT_TRUE(changed && *changed);
    EXPECT_EQ(float_parameters(model->graph()), all - 5 * 17);  // as few as will do
  }
  test::expect_unchanged("prune-neurons", kPlain, {{"target-params", std::to_string(all)}});
  test::expect_error("prune-neurons", kPlain, "would have to go", {{"target-params", "20"}});
}

TEST(RemovalSpread, ParametersGoWhereTheyCostLeast) {
  const std::vector<LayerParts> layers = {{8, {1, 2, 3, 4, 5, 6, 7}, 10}, {8, {3, 6, 9, 12, 15, 18, 21}, 100}};
  EXPECT_EQ(removals_of_parameters(layers, 300), (std::vector<std::int64_t>{0, 3}));  // 0.03 a parameter against 0.1
  EXPECT_EQ(removals_of_parameters(layers, 0), (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(removals_of_parameters(layers, 705), (std::vector<std::int64_t>{1, 7}));
  EXPECT_EQ(removals_of_parameters(layers, 250, 2), (std::vector<std::int64_t>{0, 4}));
  EXPECT_EQ(removals_of_parameters({{7, {}, 10}, {8, {}, 10}}, 25, 4), (std::vector<std::int64_t>{3, 0}));
  EXPECT_EQ(removals_of_parameters({{8, {}, 10}, {16, {}, 10}}, 120), (std::vector<std::int64_t>{4, 8}));
}

}  // namespace
}  // namespace onnxfold::prune_neurons_test
