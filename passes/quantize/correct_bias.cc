// y = Op(x, Wq) + b => y = Op(x, Wq) + b + c: quantized products and convolutions get their mean back.
//
// c = E[y of the model before] - E[y] by channel, over the calibration data, from the front to the end, so that what
// was corrected in front is seen (empirical bias correction, Nagel et al. 2019, arXiv 1906.04721). Conditions: some
// pass before quantized (the pipeline keeps what the model was then), calibration data, the value is there in both. A
// correction is kept only where held-out rows come nearer, and none when the outputs of the model do not. Lossy.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "analysis/compare/damage.h"
#include "analysis/heal/channel_fit.h"
#include "passes/pass.h"
#include "passes/quantize/quantized_result.h"

namespace onnxfold {
namespace {

using Fits = std::map<std::string, ChannelFit>;

class CorrectBias final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument, "needs data to see means on: give --calibration FILE.npz");
    }
    if (graph.parent() != nullptr) return false;
    if (context.reference == nullptr) {
      context.note("model", "nothing was quantized before, so there is no bias to correct");
      return false;
    }
    const std::vector<QuantizedResult> results = find_quantized_results(graph);
    std::vector<ChannelSite> sites;
    for (const QuantizedResult& result : results) {
      sites.push_back({result.value->name(), result.axis, /*scale=*/false, /*shift=*/true});
    }
    OF_ASSIGN(const auto fits, fit_channels(context.model(), *context.reference, *context.calibration, sites));
    double before = 0, after = 0;
    OF_TRY(measure(context, fits, before, after));
    const bool some = std::any_of(fits.begin(), fits.end(), [](const auto& each) { return each.second.accepted; });
    if (some && !(after < before)) {
      context.note("model",
                   fmt::format("no bias corrected: results come nearer one by one, but the outputs go away (damage "
                               "{:.3g}, was {:.3g})",
                               after, before));
      return false;
    }
    for (const QuantizedResult& result : results) {
      const auto found = fits.find(result.value->name());
      if (found == fits.end()) continue;
      const ChannelFit& fit = found->second;
      const std::string label = result.product->label();
      if (fit.accepted) {
        context.note(label, fmt::format("bias corrected: held-out output error {:.3f} % (was {:.3f} %)",
                                        100 * fit.error_after, 100 * fit.error_before));
      } else {
        context.skipped(label, fit.why.empty() ? "the held-out error does not fall" : fit.why);
      }
    }
    return apply(graph, fits);
  }

 private:
  static Result<bool> apply(Graph& graph, const Fits& fits) {
    bool any = false;
    for (const QuantizedResult& result : find_quantized_results(graph)) {
      const auto found = fits.find(result.value->name());
      if (found == fits.end() || !found->second.accepted) continue;
      OF_TRY(shift_channels(graph, result, found->second.shift));
      any = true;
    }
    return any;
  }

  // Errors of products that make each other good in the outputs may stop doing so when each is mended alone: seen at 2
  // bits. What counts is the model.
  static Status measure(PassContext& context, const Fits& fits, double& before, double& after) {
    constexpr std::size_t kBatches = 16;
    Dataset some = *context.calibration;
    some.targets.clear();
    some.batches.resize(std::min(some.batches.size(), kBatches));
    some.batch_sizes.resize(std::min(some.batch_sizes.size(), kBatches));
    const auto trial = context.model().clone();
    OF_ASSIGN(const bool any, apply(trial->graph(), fits));
    if (!any) return {};
    OF_ASSIGN(const DamageMeter meter, DamageMeter::create(*context.reference, some, DamageMeter::Kind::kKl));
    OF_ASSIGN(const Damage untouched, meter.measure(context.model()));
    OF_ASSIGN(const Damage corrected, meter.measure(*trial));
    before = untouched.value;
    after = corrected.value;
    return {};
  }
};

}  // namespace

std::unique_ptr<Pass> make_correct_bias(const PassOptions&) { return std::make_unique<CorrectBias>(); }

}  // namespace onnxfold
