#include "passes/tie/deferred_tie.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace onnxfold::deferred_tie_test {
namespace {

Tensor normal(std::int64_t rows, std::int64_t cols, std::uint64_t seed, DType dtype = DType::kFloat32) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> number;
  std::vector<double> numbers(static_cast<std::size_t>(rows * cols));
  for (double& x : numbers) x = number(random);
  return *from_doubles(dtype, {rows, cols}, numbers);
}

// Members of which every second one is stored the other way round and times 2.
TieWeights weights(int count, std::int64_t in, std::int64_t out, DType dtype = DType::kFloat32) {
  TieWeights made;
  for (int i = 0; i < count; ++i) {
    const bool out_in = i % 2 == 1;
    made.members.push_back(
        {out_in ? normal(out, in, i, dtype) : normal(in, out, i, dtype), in, out, out_in, out_in ? 2.0 : 1.0});
  }
  made.lower = made.members[0];
  made.stepwise = made.members[static_cast<std::size_t>(count - 1)];
  return made;
}

Buffer bytes_of(const Tensor& tensor) {
  const Bytes bytes = *tensor.bytes();
  return {bytes.span().begin(), bytes.span().end()};
}

TEST(StoredWeight, IsTheMatrixThatTheProductMultipliesWith) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kFloat64}) {
    const Tensor tensor = normal(37, 21, 3, dtype);
    const std::vector<double> numbers = *to_doubles(tensor);
    const Matrix straight = *StoredWeight{tensor, 37, 21, false, 1}.matrix();
    const Matrix across = *StoredWeight{tensor, 21, 37, true, 0.5}.matrix();
    for (std::int64_t row = 0; row < 37; ++row) {
      for (std::int64_t col = 0; col < 21; ++col) {
        const double number = numbers[static_cast<std::size_t>(row * 21 + col)];
        EXPECT_EQ(straight.at(row, col), number);
        EXPECT_EQ(across.at(col, row), 0.5 * number);
      }
    }
  }
}

TEST(StoredWeight, IsReadInRanges) {
  const Tensor tensor = normal(600, 4000, 1);  // more than one range
  const std::vector<double> numbers = *to_doubles(tensor);
  EXPECT_EQ((StoredWeight{tensor, 600, 4000, false, 1}.matrix()->data), numbers);
  EXPECT_EQ(transposed(*StoredWeight{tensor, 4000, 600, true, 1}.matrix()).data, numbers);
}

// What is written later is what would be written at once, in whatever order it is asked for and how often.
TEST(DeferredTie, IsTheFitToTheByte) {
  for (const TieStart start : {TieStart::kAverage, TieStart::kStepwise, TieStart::kLower}) {
    for (const TieFactors factors : {TieFactors::kSvd, TieFactors::kClosed, TieFactors::kAlternate}) {
      for (const std::int64_t rank : {0, 3}) {
        const TieWeights two = weights(2, 12, 9);
        const TieOptions options{start, factors, 2};
        const TiedTensors now = *rounded(*fit_weights(two, *plain_fitter_of(two), options, rank), DType::kFloat32);
        const TieOutline outline = *outline_of(two, options, rank);
        DeferredTies ties(1 << 20);
        const TiedTensors later = ties.tensors_of(two, options, rank, outline.ranks);
        for (int round = 0; round < 2; ++round) {
          for (const std::size_t l : {1U, 0U}) {
            ASSERT_EQ(now.factors[l].first.defined(), later.factors[l].first.defined());
            if (!now.factors[l].first.defined()) continue;
            EXPECT_EQ(bytes_of(now.factors[l].second), bytes_of(later.factors[l].second));
            EXPECT_EQ(bytes_of(now.factors[l].first), bytes_of(later.factors[l].first));
          }
          EXPECT_EQ(bytes_of(now.shared), bytes_of(later.shared));
        }
      }
    }
  }
}

TEST(DeferredTie, MembersThatAreTheStartHaveNoCorrection) {
  const TieWeights three = weights(3, 8, 10);
  EXPECT_EQ(outline_of(three, {TieStart::kLower, TieFactors::kSvd, 0}, 4)->ranks, (std::vector<std::int64_t>{0, 4, 4}));
  EXPECT_EQ(outline_of(three, {TieStart::kStepwise, TieFactors::kSvd, 0}, 4)->ranks,
            (std::vector<std::int64_t>{4, 4, 0}));
  const TieOutline average = *outline_of(three, {TieStart::kAverage, TieFactors::kSvd, 0}, 99);
  EXPECT_EQ(average.ranks, (std::vector<std::int64_t>{8, 8, 8}));
  EXPECT_NEAR(average.strict_error, fit_weights(three, *plain_fitter_of(three), {}, 0)->error, 1e-12);
  TieWeights equal = weights(1, 8, 10);
  equal.members.push_back(equal.members[0]);
  EXPECT_EQ(outline_of(equal, {}, 4)->ranks, (std::vector<std::int64_t>{0, 0}));
}

TEST(DeferredTie, CorrectionsAreFilledUpWithZeros) {
  const TieWeights two = weights(2, 8, 10);
  DeferredTies ties(1);
  const TieOptions options{TieStart::kLower, TieFactors::kSvd, 0};
  const TiedTensors tensors = ties.tensors_of(two, options, 2, {3, 3});
  for (const auto& [a, b] : tensors.factors) {
    EXPECT_EQ(a.dims(), (Dims{8, 3}));
    EXPECT_EQ(b.dims(), (Dims{3, 10}));
  }
  EXPECT_EQ(*to_doubles(tensors.factors[0].first), std::vector<double>(8 * 3, 0));
  const SharedFit fit = *fit_weights(two, *plain_fitter_of(two), options, 2);
  const std::vector<double> filled = *to_doubles(tensors.factors[1].first);
  for (std::int64_t row = 0; row < 8; ++row) {
    EXPECT_EQ(filled[static_cast<std::size_t>(row * 3)], static_cast<float>(fit.corrections[1].a.at(row, 0)));
    EXPECT_EQ(filled[static_cast<std::size_t>(row * 3 + 2)], 0);
  }
}

// Several threads, several groups, and room for one fit at a time.
TEST(DeferredTie, ThreadsGetTheSameBytes) {
  DeferredTies ties(1);
  std::vector<Tensor> tensors;
  std::vector<Buffer> expected;
  for (int group = 0; group < 5; ++group) {
    TieWeights two = weights(2, 10 + group, 8);
    const TiedTensors now = *rounded(*fit_weights(two, *plain_fitter_of(two), {}, 2), DType::kFloat32);
    const TiedTensors later = ties.tensors_of(two, {}, 2, {2, 2});
    expected.push_back(bytes_of(now.shared));
    tensors.push_back(later.shared);
    for (std::size_t l = 0; l < 2; ++l) {
      expected.push_back(bytes_of(now.factors[l].first));
      expected.push_back(bytes_of(now.factors[l].second));
      tensors.push_back(later.factors[l].first);
      tensors.push_back(later.factors[l].second);
    }
  }
  std::vector<Buffer> found(tensors.size());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < tensors.size(); i += 4) found[i] = bytes_of(tensors[i]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace onnxfold::deferred_tie_test
