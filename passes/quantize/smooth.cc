// y = Linear(Norm(x) * g) => y = Linear'(Norm(x) * (g / s)), rows of the weight times s (SmoothQuant, arXiv
// 2211.10438).
//
// s_j = max|X_j|^a / max|W_j|^(1-a) for input channel j, over all Linears that read the value. Also where an earlier
// Linear makes the channels (channel_scale.h): its columns are divided. Conditions: only Linears read the
// value; gain, bias and weights are constant; calibration data. Rounding: the same function, with outliers of the
// activations moved into weights, before activations are quantized.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/statistics.h"
#include "passes/quantize/channel_scale.h"

namespace onnxfold {
namespace {

class Smooth final : public Pass {
 public:
  explicit Smooth(double strength) : strength_(strength) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument, "needs data to see outliers on: give --calibration FILE.npz");
    }
    if (graph.parent() != nullptr) return false;
    ScaleSites sites(graph);
    std::vector<std::string> names;
    for (const ScaleSite& site : sites.find(&context)) names.push_back(site.value->name());
    if (names.empty()) return false;
    OF_ASSIGN(const auto statistics,
              collect_statistics(context.model(), *context.calibration, names, /*with_gram=*/false));
    bool any = false;
    // Rescaling replaces weights, so sites are matched again, one by one.
    for (const std::string& name : names) {
      const auto found = statistics.find(name);
      Value* value = graph.find(name);
      const auto site = value != nullptr ? sites.at(*value) : std::nullopt;
      if (!site || found == statistics.end()) continue;
      OF_ASSIGN(const bool changed, rescale(sites, *site, found->second.moments.max_abs, context));
      any = any || changed;
    }
    return any;
  }

 private:
  Result<std::vector<double>> factors_for(const ScaleSite& site, std::vector<double> largest) const {
    std::vector<double> weights(largest.size());
    for (const Linear& reader : site.readers) {
      OF_ASSIGN(const Matrix matrix, weight_matrix(reader));
      for (std::int64_t i = 0; i < matrix.rows; ++i) {
        double& most = weights[static_cast<std::size_t>(i)];
        for (std::int64_t j = 0; j < matrix.cols; ++j) most = std::max(most, std::abs(matrix.at(i, j)));
      }
    }
    share_by_column(site, largest);
    share_by_column(site, weights);
    std::vector<double> factors(largest.size(), 1.0);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      if (!(largest[i] > 0) || !(weights[i] > 0)) continue;
      const double s = std::pow(largest[i], strength_) / std::pow(weights[i], 1 - strength_);
      if (std::isfinite(s)) factors[i] = std::clamp(s, 1e-5, 1e5);
    }
    return factors;
  }

  Result<bool> rescale(ScaleSites& sites, const ScaleSite& site, const std::vector<double>& largest,
                       PassContext& context) const {
    for (const Linear& reader : site.readers) {
      if (reader.in != static_cast<std::int64_t>(largest.size())) return false;
    }
    OF_ASSIGN(const std::vector<double> factors, factors_for(site, largest));
    if (std::all_of(factors.begin(), factors.end(), [](double s) { return s == 1; })) return false;
    const std::string label = site.value->name();
    OF_TRY(sites.apply(site, factors));
    context.note(label, fmt::format("smoothed: largest input {:.3g}, factors {:.3g} to {:.3g}",
                                    *std::max_element(largest.begin(), largest.end()),
                                    *std::min_element(factors.begin(), factors.end()),
                                    *std::max_element(factors.begin(), factors.end())));
    return true;
  }

  double strength_;
};

}  // namespace

std::unique_ptr<Pass> make_smooth(const PassOptions& options) {
  return std::make_unique<Smooth>(options.number("strength"));
}

}  // namespace onnxfold
