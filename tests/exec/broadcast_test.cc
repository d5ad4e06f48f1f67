#include "exec/broadcast.h"

#include <gmock/gmock.h>

#include <numeric>

namespace onnxfold::broadcast_test {
namespace {

TEST(Broadcast, Dims) {
  EXPECT_EQ(broadcast_dims({2, 1, 3}, {4, 1}), (Dims{2, 4, 3}));
  EXPECT_EQ(broadcast_dims({}, {0}), (Dims{0}));
  EXPECT_EQ(broadcast_dims({1}, {0}), (Dims{0}));
  EXPECT_EQ(broadcast_dims({2}, {3}), std::nullopt);
  EXPECT_EQ(broadcast_dims({2, 0}, {2, 2}), std::nullopt);
}

// Against the definition, element by element.
void expect_sums(const Dims& a_dims, const Dims& b_dims) {
  const Dims out_dims = *broadcast_dims(a_dims, b_dims);
  std::vector<std::int64_t> a(static_cast<std::size_t>(element_count(a_dims))),
      b(static_cast<std::size_t>(element_count(b_dims)));
  std::iota(a.begin(), a.end(), 1);
  std::iota(b.begin(), b.end(), 1000);
  std::vector<std::int64_t> out(static_cast<std::size_t>(element_count(out_dims)));
  map_binary(a.data(), a_dims, b.data(), b_dims, out.data(), out_dims,
             [](std::int64_t x, std::int64_t y) { return x * 100000 + y; });
  const Dims strides = row_major_strides(out_dims);
  const auto at = [&](const Dims& dims, std::size_t flat) {
    const Dims own = row_major_strides(dims);
    std::int64_t offset = 0;
    for (std::size_t k = 0; k < dims.size(); ++k) {
      const std::size_t axis = out_dims.size() - dims.size() + k;
      const std::int64_t index = static_cast<std::int64_t>(flat) / strides[axis] % out_dims[axis];
      offset += dims[k] == 1 ? 0 : index * own[k];
    }
    return static_cast<std::size_t>(offset);
  };
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], a[at(a_dims, i)] * 100000 + b[at(b_dims, i)]) << i;
}

TEST(Broadcast, EveryPatternOfOnes) {
  const Dims full = {3, 2, 4, 5};
  for (unsigned left = 0; left < 16; ++left) {
    for (unsigned right = 0; right < 16; ++right) {
      Dims a = full, b = full;
      for (unsigned k = 0; k < 4; ++k) {
        if ((left >> k & 1U) != 0) a[k] = 1;
        if ((right >> k & 1U) != 0) b[k] = 1;
      }
      expect_sums(a, b);
    }
  }
}

TEST(Broadcast, ShorterRanksAndScalars) {
  expect_sums({2, 3, 4}, {});
  expect_sums({}, {});
  expect_sums({4}, {2, 3, 4});
  expect_sums({3, 1}, {2, 1, 4});
}

TEST(Broadcast, LargeEnoughForThreads) {
  expect_sums({300, 500}, {500});
  expect_sums({300, 1}, {300, 500});
}

}  // namespace
}  // namespace onnxfold::broadcast_test
