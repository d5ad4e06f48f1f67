#include "passes/tie/correction_ranks.h"

#include <gmock/gmock.h>

namespace onnxfold::correction_ranks_test {
namespace {

using testing::ElementsAre;

CorrectionCurve curve(std::int64_t in, std::int64_t out, std::int64_t loops, double scale) {
  CorrectionCurve result{in, out, loops, 4, {}, 1};
  for (std::int64_t k = 0; k < std::min(in, out); ++k) {
    result.error_squares.push_back(scale / static_cast<double>((k + 1) * (k + 1)));
  }
  return result;
}

std::int64_t bytes(const std::vector<CorrectionCurve>& curves, const std::vector<std::int64_t>& ranks) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < curves.size(); ++i) sum += curves[i].bytes(ranks[i]);
  return sum;
}

TEST(CorrectionRanks, BreakEvenIsThePapers) {
  EXPECT_EQ(curve(768, 768, 2, 1).break_even(), 192);
  EXPECT_EQ(curve(768, 768, 2, 1).most(), 191);
  EXPECT_LT(curve(768, 768, 2, 1).bytes(191), curve(768, 768, 2, 1).untied_bytes());
  EXPECT_EQ(curve(768, 768, 2, 1).bytes(192), curve(768, 768, 2, 1).untied_bytes());
  EXPECT_EQ(curve(1, 64, 4, 1).most(), 0);
}

TEST(CorrectionRanks, TheBudgetIsKeptAndUsed) {
  const std::vector<CorrectionCurve> curves = {curve(16, 16, 2, 1), curve(16, 64, 2, 9), curve(64, 16, 2, 0.1)};
  for (const double share : {0.5, 0.55, 0.7, 0.9}) {
    std::int64_t untied = 0;
    for (const auto& one : curves) untied += one.untied_bytes();
    const auto budget = static_cast<std::int64_t>(share * static_cast<double>(untied));
    for (const double least : {0.0, 0.5, 1.0}) {
      const auto ranks = corrections_by_error(curves, budget, least);
      EXPECT_LE(bytes(curves, ranks), budget);
    }
    const auto uniform = uniform_corrections(curves, budget);
    EXPECT_LE(bytes(curves, uniform), budget);
    const auto spread = corrections_by_error(curves, budget, 0);
    EXPECT_GE(spread[1], uniform[1]);  // the one with the most error
  }
}

TEST(CorrectionRanks, NothingToSpendIsStrict) {
  const std::vector<CorrectionCurve> curves = {curve(16, 16, 2, 1), curve(16, 64, 2, 9)};
  EXPECT_THAT(uniform_corrections(curves, 100), ElementsAre(0, 0));
  EXPECT_THAT(corrections_by_error(curves, 100, 0.5), ElementsAre(0, 0));
  EXPECT_THAT(corrections_by_error({}, 100, 0.5), ElementsAre());
}

}  // namespace
}  // namespace onnxfold::correction_ranks_test
