#include "exec/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "exec/executor.h"

namespace onnxfold::parallel_test {
namespace {

// As many threads as it takes to have some wait for others, whatever the machine has.
class Parallel : public testing::Test {
 protected:
  void SetUp() override { set_threads(4); }
  void TearDown() override { set_threads(before_); }
  const int before_ = threads();
};

TEST_F(Parallel, EveryIndexOnceWhateverTheGrain) {
  for (const std::int64_t n : {0, 1, 2, 7, 1000, 4096}) {
    for (const std::int64_t grain : {1, 3, 100000}) {
      std::vector<int> seen(static_cast<std::size_t>(n));
      parallel_for(n, grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
      });
      EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), std::int64_t{0}), n) << n << " " << grain;
    }
  }
}

TEST_F(Parallel, AnExceptionReachesTheCallerAndTheNextJobRuns) {
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(parallel_for(100, 1,
                              [](std::int64_t begin, std::int64_t) {
                                if (begin >= 50) throw std::runtime_error("broken");
                              }),
                 std::runtime_error);
    std::atomic<std::int64_t> count = 0;
    parallel_for(100, 1, [&](std::int64_t begin, std::int64_t end) { count += end - begin; });
    EXPECT_EQ(count, 100);
  }
}

TEST_F(Parallel, JobsInsideJobsAndFromSeveralThreads) {
  std::atomic<std::int64_t> count = 0;
  const auto nested = [&] {
    for (int round = 0; round < 50; ++round) {
      parallel_for(8, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          parallel_for(8, 1, [&](std::int64_t b, std::int64_t e) { count += e - b; });
        }
      });
    }
  };
  std::thread other(nested);
  nested();
  other.join();
  EXPECT_EQ(count, 2 * 50 * 64);
}

}  // namespace
}  // namespace onnxfold::parallel_test
