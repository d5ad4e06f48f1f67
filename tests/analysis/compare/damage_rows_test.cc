#include <gtest/gtest.h>

#include <cmath>

#include "analysis/compare/damage.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::damage_rows_test {
namespace {

// y = x, or x and what the input d adds.
std::unique_ptr<Model> model(bool changed) {
  return test::model_from_text(
      std::string("<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 4, 2] x, float[N, 4, 2] d, int64[N, 4] "
                  "attention_mask) => (float[N, 4, 2] y) { ") +
      (changed ? "y = Add(x, d) }" : "y = Identity(x) }"));
}

// Two batches of eight samples; `d` is 1 in one sample at one position.
Dataset data(std::size_t sample, std::size_t position, bool padded) {
  Dataset made;
  for (std::size_t batch = 0; batch < 2; ++batch) {
    std::vector<float> x(64, 1.0F), d(64, 0.0F);
    std::vector<std::int64_t> mask(32, 1);
    for (std::size_t s = 0; padded && s < 8; ++s) mask[4 * s + 3] = 0;
    if (sample / 8 == batch) d[(sample % 8) * 8 + position * 2] = 1;
    Feeds feeds;
    feeds["x"] = Datum(*to_array(Tensor::of<float>({8, 4, 2}, x), Precision::kFloat32));
    feeds["d"] = Datum(*to_array(Tensor::of<float>({8, 4, 2}, d), Precision::kFloat32));
    feeds["attention_mask"] = Datum(*to_array(Tensor::of<std::int64_t>({8, 4}, mask), Precision::kFloat32));
    made.batches.push_back(std::move(feeds));
    made.batch_sizes.push_back(8);
  }
  return made;
}

double damage(const Dataset& data, DamageMeter::Rows rows) {
  const auto meter = DamageMeter::create(*model(false), data, DamageMeter::Kind::kError, nullptr, rows);
  EXPECT_TRUE(meter);
  return meter->measure(*model(true))->value;
}

TEST(DamageRows, PaddingDoesNotCount) {
  EXPECT_NEAR(damage(data(2, 3, false), DamageMeter::Rows::kAll), std::sqrt(1.0 / 128), 1e-6);
  EXPECT_EQ(damage(data(2, 3, true), DamageMeter::Rows::kAll), 0);
  EXPECT_NEAR(damage(data(2, 1, true), DamageMeter::Rows::kAll), std::sqrt(1.0 / 96), 1e-6);
}

TEST(DamageRows, OnlyRowsHeldOut) {
  for (const bool padded : {false, true}) {
    EXPECT_EQ(damage(data(2, 1, padded), DamageMeter::Rows::kHeldOut), 0);
    for (const std::size_t sample : {7, 15}) {
      EXPECT_NEAR(damage(data(sample, 1, padded), DamageMeter::Rows::kHeldOut), std::sqrt(1.0 / (padded ? 12 : 16)),
                  1e-6);
    }
  }
}

// Three samples hold nothing out: all count.
TEST(DamageRows, FewSamplesCountAll) {
  Dataset few = data(2, 1, false);
  few.batches.resize(1);
  few.batch_sizes = {3};
  EXPECT_GT(damage(few, DamageMeter::Rows::kHeldOut), 0);
}

}  // namespace
}  // namespace onnxfold::damage_rows_test
