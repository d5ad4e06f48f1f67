#include "analysis/compare/damage.h"

#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::damage_test {
namespace {

std::unique_ptr<Model> scores(const std::string& factor) {
  return test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] logits) <float[2] f = {)" +
                               factor + "}> { logits = Mul(x, f) }");
}

Dataset batches(const std::vector<std::vector<double>>& rows) {
  Dataset data;
  for (const std::vector<double>& numbers : rows) {
    const auto count = static_cast<std::int64_t>(numbers.size() / 2);
    data.batches.push_back(
        {{"x", Datum(*to_array(*from_doubles(DType::kFloat32, {count, 2}, numbers), Precision::kFloat32))}});
    data.batch_sizes.push_back(count);
  }
  return data;
}

std::vector<double> by_batch(const DamageMeter& meter, const Model& changed) {
  return *meter.by_batch(*record(changed, meter.data(), meter.output_names()));
}

TEST(DamageByBatch, LossesAreThoseOfTheSamples) {
  const auto original = scores("1, 1"), changed = scores("1, 2");
  Dataset data = batches({{1, 2}, {3, 1, 0, 5}, {2, 2}});
  data.targets["labels"] = Tensor::of({4}, std::vector<std::int64_t>{0, 1, 0, 1});
  const auto meter = DamageMeter::create(*original, data);
  ASSERT_TRUE(meter && meter->kind() == DamageMeter::Kind::kLoss);
  const std::vector<double> values = by_batch(*meter, *changed);
  ASSERT_EQ(values.size(), 3U);
  EXPECT_NEAR((values[0] + 2 * values[1] + values[2]) / 4, meter->measure(*changed)->value, 1e-12);
  EXPECT_NEAR(values[0], std::log(1 + std::exp(3.0)), 1e-6);  // logits 1 and 4, label 0
}

TEST(DamageByBatch, WithoutATaskEveryBatchIsComparedAlone) {
  const auto original = scores("1, 1"), changed = scores("1, 2");
  const Dataset data = batches({{1, 0}, {0, 1}}), second = batches({{0, 1}});
  const auto meter = DamageMeter::create(*original, data), alone = DamageMeter::create(*original, second);
  ASSERT_TRUE(meter && alone && meter->kind() == DamageMeter::Kind::kKl);
  const std::vector<double> values = by_batch(*meter, *changed);
  ASSERT_EQ(values.size(), 2U);
  EXPECT_NEAR(values[0], 0, 1e-12);
  EXPECT_NEAR(values[1], alone->measure(*changed)->value, 1e-12);
}

}  // namespace
}  // namespace onnxfold::damage_test
