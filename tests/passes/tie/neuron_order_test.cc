#include "passes/tie/neuron_order.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/structure/linear.h"
#include "tests/passes/tie/stacks.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::neuron_order_test {
namespace {

// Block 1 is block 0 with its neurons turned by five places.
std::unique_ptr<Model> turned() {
  auto model = test::model_from_text(test::ffn_stack(2, 1 << 20, "double"));
  Graph& graph = model->graph();
  const auto turn = [&](const std::string& name, std::int64_t rows, std::int64_t cols, bool columns) {
    const auto old = *to_doubles(*graph.find(name + "0")->constant());
    std::vector<double> numbers(old.size());
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const std::int64_t from = columns ? r * cols + (c + 5) % cols : (r + 5) % rows * cols + c;
        numbers[static_cast<std::size_t>(r * cols + c)] = old[static_cast<std::size_t>(from)];
      }
    }
    Value* value = graph.find(name + "1");
    graph.replace_all_uses(
        *value, *graph.add_initializer("turned", *from_doubles(DType::kFloat64, value->constant()->dims(), numbers)));
  };
  turn("up", 8, 16, true);
  turn("down", 16, 8, false);
  turn("bias", 1, 16, true);
  return model;
}

double distance(const Graph& graph) {
  const auto linears = find_linears(graph);
  return frobenius_norm(sum(*weight_matrix(linears[0]), *weight_matrix(linears[2]), -1));
}

TEST(NeuronOrder, ATurnedLayerIsTurnedBackAndTheModelStays) {
  const auto model = turned();
  const auto original = model->clone();
  EXPECT_GT(distance(model->graph()), 1);
  const auto count = align_neurons(model->graph(), {0, 1});
  ASSERT_TRUE(count) << count.error().message;
  EXPECT_EQ(*count, 1);
  EXPECT_EQ(distance(model->graph()), 0);
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-13), "");
}

TEST(NeuronOrder, TiedAfterAlignmentNothingIsLost) {
  const auto original = turned();
  const auto aligned = original->clone(), plain = original->clone();
  ASSERT_TRUE(test::run_pass("tie-layers", *aligned, {{"rank", "0"}, {"align", "neurons"}}));
  ASSERT_TRUE(test::run_pass("tie-layers", *plain, {{"rank", "0"}}));
  EXPECT_EQ(test::difference(*original, *aligned, Precision::kFloat64, 1e-13), "");
  EXPECT_NE(test::difference(*original, *plain, Precision::kFloat64, 1e-2), "");
}

// The neurons of both layers are in one constant each: turning one layer would turn the other.
TEST(NeuronOrder, SharedConstantsStay) {
  const auto model = test::model_from_text(test::ffn_stack(2, 1));
  const auto count = align_neurons(model->graph(), {0, 1});
  ASSERT_TRUE(count);
  EXPECT_EQ(*count, 0);
}

}  // namespace
}  // namespace onnxfold::neuron_order_test
