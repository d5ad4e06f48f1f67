#include "exec/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "exec/executor.h"

namespace onnxfold::gemm_test {
namespace {

template <typename T>
std::vector<T> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& value : values) value = static_cast<T>(static_cast<int>(generator() % 2001) - 1000) / T{1000};
  return values;
}

template <typename T>
double worst_error(std::int64_t m, std::int64_t n, std::int64_t k, bool trans_a, bool trans_b) {
  const std::vector<T> a = random_values<T>(m * k, 1), b = random_values<T>(k * n, 2),
                       start = random_values<T>(m * n, 3);
  std::vector<T> c = start;
  const std::int64_t lda = trans_a ? m : k, ldb = trans_b ? k : n;
  gemm(m, n, k, T{2}, a.data(), lda, trans_a, b.data(), ldb, trans_b, T{0.5}, c.data(), n);
  double worst = 0;
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t p = 0; p < k; ++p) {
        sum += static_cast<double>(a[static_cast<std::size_t>(trans_a ? p * lda + i : i * lda + p)]) *
               static_cast<double>(b[static_cast<std::size_t>(trans_b ? j * ldb + p : p * ldb + j)]);
      }
      const auto at = static_cast<std::size_t>(i * n + j);
      worst = std::max(worst, std::abs(2 * sum + 0.5 * static_cast<double>(start[at]) - static_cast<double>(c[at])));
    }
  }
  return worst;
}

TEST(Gemm, AllTranspositions) {
  for (const bool trans_a : {false, true}) {
    for (const bool trans_b : {false, true}) {
      EXPECT_LT(worst_error<float>(7, 5, 9, trans_a, trans_b), 1e-5);
      EXPECT_LT(worst_error<double>(7, 5, 9, trans_a, trans_b), 1e-13);
      EXPECT_LT(worst_error<float>(200, 800, 40, trans_a, trans_b), 1e-4);
      EXPECT_LT(worst_error<double>(200, 800, 40, trans_a, trans_b), 1e-12);
    }
  }
}

TEST(Gemm, FloatsInDoubleAreConvertedDoubles) {
  for (const auto& [m, n, k] : {std::tuple{7, 5, 9}, {30, 50, 300}, {200, 800, 40}}) {
    for (int flags = 0; flags < 4; ++flags) {
      const bool trans_a = flags % 2 != 0, trans_b = flags / 2 != 0;
      const std::vector<float> a = random_values<float>(m * k, 6), b = random_values<float>(k * n, 7);
      const std::vector<double> wide_a(a.begin(), a.end()), wide_b(b.begin(), b.end());
      std::vector<double> c(static_cast<std::size_t>(m * n), 0.5), expected = c;
      const std::int64_t lda = trans_a ? m : k, ldb = trans_b ? k : n;
      gemm(m, n, k, 1.5, a.data(), lda, trans_a, b.data(), ldb, trans_b, 1.0, c.data(), n);
      gemm(m, n, k, 1.5, wide_a.data(), lda, trans_a, wide_b.data(), ldb, trans_b, 1.0, expected.data(), n);
      EXPECT_EQ(c, expected) << m << "x" << n << "x" << k;
    }
  }
}

TEST(Gemm, EmptySumScalesOrClears) {
  std::vector<float> c{1, NAN};
  gemm(1, 1, 0, 1.0F, nullptr, 1, false, nullptr, 1, false, 3.0F, c.data(), 1);
  gemm(1, 1, 0, 1.0F, nullptr, 1, false, nullptr, 1, false, 0.0F, c.data() + 1, 1);
  EXPECT_EQ(c, (std::vector<float>{3, 0}));
}

TEST(Gemm, ZeroBetaIgnoresOldValues) {
  const std::vector<double> a{1, 2}, b{3, 4};
  double c = NAN;
  gemm(1, 1, 2, 1.0, a.data(), 2, false, b.data(), 1, false, 0.0, &c, 1);
  EXPECT_EQ(c, 11);
}

TEST(Gemm, SameBitsAtAnyThreadCount) {
  const int before = threads();
  for (const auto& [m, n, k] : {std::tuple{1, 1000, 700}, {300, 30, 2000}, {500, 900, 64}, {3, 3, 5000}}) {
    const std::vector<float> a = random_values<float>(m * k, 4), b = random_values<float>(k * n, 5);
    std::vector<float> one(static_cast<std::size_t>(m * n)), many(one.size());
    set_threads(1);
    gemm(m, n, k, 1.0F, a.data(), k, false, b.data(), n, false, 0.0F, one.data(), n);
    set_threads(5);
    gemm(m, n, k, 1.0F, a.data(), k, false, b.data(), n, false, 0.0F, many.data(), n);
    EXPECT_EQ(one, many) << m << "x" << n << "x" << k;
  }
  set_threads(before);
}

TEST(Gemm, BatchEqualsSingleProducts) {
  const std::vector<float> a = random_values<float>(64 * 12, 6), b = random_values<float>(64 * 20, 7);
  std::vector<float> c(64 * 15), expected(64 * 15);
  std::vector<GemmItem<float>> items;
  for (int i = 0; i < 64; ++i) {
    items.push_back({a.data() + i * 12, b.data() + i * 20, c.data() + i * 15});
    gemm(3, 5, 4, 1.0F, a.data() + i * 12, 4, false, b.data() + i * 20, 4, true, 0.0F, expected.data() + i * 15, 5);
  }
  gemm_batch(items, 3, 5, 4, 1.0F, 4, false, 4, true, 0.0F, 5);
  EXPECT_EQ(c, expected);
}

}  // namespace
}  // namespace onnxfold::gemm_test
