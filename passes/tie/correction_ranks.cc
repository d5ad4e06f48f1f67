#include "passes/tie/correction_ranks.h"

#include <fmt/format.h>

#include <algorithm>

#include "passes/pass.h"

namespace onnxfold {
namespace {

std::int64_t strict_bytes(const std::vector<CorrectionCurve>& curves) {
  std::int64_t bytes = 0;
  for (const CorrectionCurve& curve : curves) bytes += curve.bytes(0);
  return bytes;
}

struct Step {
  std::size_t group = 0;
  double gain = 0;  // error taken away per byte
};

}  // namespace

std::int64_t CorrectionCurve::break_even() const {
  const std::int64_t saved = (loops - 1) * in * out, cost = loops * (in + out);
  return cost == 0 ? 0 : (saved + cost - 1) / cost;
}

std::int64_t CorrectionCurve::most() const { return std::max<std::int64_t>(0, std::min({break_even() - 1, in, out})); }

std::int64_t untied_bytes(const std::vector<CorrectionCurve>& curves) {
  std::int64_t bytes = 0;
  for (const CorrectionCurve& curve : curves) bytes += curve.untied_bytes();
  return bytes;
}

Result<std::vector<std::int64_t>> corrections_by_role(const std::vector<CorrectionCurve>& curves,
                                                      const std::vector<std::string>& roles, std::int64_t rank,
                                                      const std::vector<std::string>& rules) {
  std::vector<std::int64_t> ranks(curves.size(), rank);
  for (const std::string& rule : rules) {
    const auto equals = rule.rfind('=');
    const std::string number = equals == std::string::npos ? "" : rule.substr(equals + 1);
    if (number.empty() || number.size() > 9 || number.find_first_not_of("0123456789") != std::string::npos) {
      return fail(Code::kInvalidArgument, fmt::format("ranks: '{}' is not ROLE=RANK (as in ffn.*=32)", rule));
    }
    for (std::size_t i = 0; i < curves.size(); ++i) {
      if (glob_match(rule.substr(0, equals), roles[i])) ranks[i] = std::stoll(number);
    }
  }
  for (std::size_t i = 0; i < curves.size(); ++i) ranks[i] = std::min({ranks[i], curves[i].in, curves[i].out});
  return ranks;
}

std::vector<std::int64_t> uniform_corrections(const std::vector<CorrectionCurve>& curves, std::int64_t budget) {
  const double share =
      static_cast<double>(budget) / static_cast<double>(std::max<std::int64_t>(untied_bytes(curves), 1));
  std::vector<std::int64_t> ranks;
  for (const CorrectionCurve& curve : curves) {
    const double spare = share * static_cast<double>(curve.untied_bytes()) - static_cast<double>(curve.bytes(0));
    const double each = static_cast<double>(curve.bytes(1) - curve.bytes(0));
    ranks.push_back(std::clamp<std::int64_t>(static_cast<std::int64_t>(spare / each + 1e-9), 0, curve.most()));
  }
  return ranks;
}

std::vector<std::int64_t> corrections_by_error(const std::vector<CorrectionCurve>& curves, std::int64_t budget,
                                               double least) {
  std::vector<std::int64_t> ranks = uniform_corrections(curves, budget);
  std::int64_t spent = strict_bytes(curves);
  std::vector<Step> steps;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const CorrectionCurve& curve = curves[i];
    ranks[i] = static_cast<std::int64_t>(least * static_cast<double>(ranks[i]));
    spent += curve.bytes(ranks[i]) - curve.bytes(0);
    const double unit = curve.energy > 0 ? curve.energy : 1;
    const auto last = std::min<std::int64_t>(curve.most(), static_cast<std::int64_t>(curve.error_squares.size()));
    for (std::int64_t r = ranks[i]; r < last; ++r) {
      const double each = static_cast<double>(curve.bytes(1) - curve.bytes(0));
      steps.push_back({i, curve.error_squares[static_cast<std::size_t>(r)] / unit / each});
    }
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
  for (const Step& step : steps) {
    const std::int64_t cost = curves[step.group].bytes(1) - curves[step.group].bytes(0);
    if (spent + cost > budget) continue;
    spent += cost;
    ++ranks[step.group];
  }
  return ranks;
}

}  // namespace onnxfold
