#include "analysis/calibrate/sample_split.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/rewrite_test.h"

namespace onnxfold::sample_split_test {
namespace {

constexpr const char* kFree = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x, float[1,2] z) => (float[N,2] y) { y = Add(x, z) })";
constexpr const char* kFixed = R"(<ir_version: 8, opset_import: ["" : 17]>
g (float[5,2] x, float[1,2] z) => (float[5,2] y) { y = Add(x, z) })";

Datum array_of(Dims dims, double first) {
  std::vector<double> numbers(static_cast<std::size_t>(dims[0] * dims[1]));
  std::iota(numbers.begin(), numbers.end(), first);
  return Datum(*to_array(*from_doubles(DType::kFloat32, std::move(dims), numbers), Precision::kFloat32));
}

// Samples hold their number, doubled and doubled plus one; labels are the numbers.
Dataset numbered(const std::vector<std::int64_t>& sizes) {
  Dataset data;
  std::vector<std::int64_t> labels;
  for (const std::int64_t size : sizes) {
    const auto first = static_cast<std::int64_t>(labels.size());
    for (std::int64_t i = 0; i < size; ++i) labels.push_back(first + i);
    data.batches.push_back({{"x", array_of({size, 2}, 2.0 * static_cast<double>(first))}, {"z", array_of({1, 2}, 0)}});
    data.batch_sizes.push_back(size);
  }
  data.targets["labels"] = Tensor::of({static_cast<std::int64_t>(labels.size())}, labels);
  data.origin = "numbers";
  return data;
}

std::vector<std::int64_t> samples_of(const Dataset& data) {
  std::vector<std::int64_t> samples;
  for (const Feeds& feeds : data.batches) {
    const std::vector<double> numbers = *to_doubles(feeds.at("x").array);
    for (std::size_t i = 0; i < numbers.size(); i += 2) {
      EXPECT_EQ(numbers[i] + 1, numbers[i + 1]);
      samples.push_back(static_cast<std::int64_t>(numbers[i] / 2));
    }
  }
  return samples;
}

TEST(SampleSplit, EveryEighthIsHeldOutWithItsTargets) {
  const auto model = test::model_from_text(kFree);
  for (const auto& sizes : {std::vector<std::int64_t>{16, 4}, {5, 5, 10}, {1, 19}}) {
    const auto split = split_samples(*model, numbered(sizes));
    ASSERT_TRUE(split && *split);
    const SampleSplit& parts = **split;
    EXPECT_EQ(samples_of(parts.check), (std::vector<std::int64_t>{7, 15}));
    EXPECT_EQ(samples_of(parts.fit).size(), 18U);
    EXPECT_EQ(*to_int64s(parts.check.targets.at("labels")), samples_of(parts.check));
    EXPECT_EQ(*to_int64s(parts.fit.targets.at("labels")), samples_of(parts.fit));
    EXPECT_EQ(parts.check.batch_sizes, (std::vector<std::int64_t>{1, 1}));  // one by one
    EXPECT_EQ(parts.fit.origin, "numbers");
    EXPECT_EQ(parts.check.batches[0].at("z").array.dim(0), 1);  // what is no sample stays
  }
}

TEST(SampleSplit, FewSamplesAndFixedBatchesAreNotSplit) {
  const auto split = [](const char* text, const std::vector<std::int64_t>& sizes) {
    const auto found = split_samples(*test::model_from_text(text), numbered(sizes));
    EXPECT_TRUE(found);
    return found->has_value();
  };
  EXPECT_FALSE(split(kFree, {7}));
  EXPECT_TRUE(split(kFree, {8}));
  EXPECT_FALSE(split(kFixed, {5, 5}));
}

// Samples of a folder come one by one, whatever their first axis is.
TEST(SampleSplit, WholeBatchesAreTakenAsTheyAre) {
  const auto model = test::model_from_text(kFixed);
  Dataset data = numbered(std::vector<std::int64_t>(9, 5));
  data.batch_sizes.assign(9, 1);
  const auto split = split_samples(*model, data);
  ASSERT_TRUE(split && *split);
  EXPECT_EQ((*split)->fit.batches.size(), 8U);
  ASSERT_EQ((*split)->check.batches.size(), 1U);
  EXPECT_EQ((*split)->check.batches[0].at("x").array.dim(0), 5);
}

}  // namespace
}  // namespace onnxfold::sample_split_test
