#include "exec/side_by_side.h"

#include <gtest/gtest.h>

#include <string>

namespace onnxfold::side_by_side_test {
namespace {

TEST(SideBySide, EveryPieceOnceAndTheFirstErrorAtAnyThreadCount) {
  const int before = threads();
  for (const int count : {1, 2, 7}) {
    set_threads(count);
    for (const std::size_t pieces : {0U, 1U, 5U, 40U}) {
      std::vector<int> calls(pieces);
      const auto fine = side_by_side(pieces, [&](std::size_t i) -> Status {
        ++calls[i];
        return {};
      });
      EXPECT_TRUE(fine);
      EXPECT_EQ(calls, std::vector<int>(pieces, 1));
    }
    const auto failed = side_by_side(
        20, [&](std::size_t i) -> Status { return i % 7 == 3 ? fail(Code::kInternal, std::to_string(i)) : Status(); });
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().message, "3");
  }
  set_threads(before);
}

}  // namespace
}  // namespace onnxfold::side_by_side_test
