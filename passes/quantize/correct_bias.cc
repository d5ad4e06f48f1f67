// y = Op(x, Wq) + b => y = Op(x, Wq) + b + c: quantized products and convolutions get their mean back.
//
// c = E[y of the model before] - E[y] by channel, over the calibration data, from the front to the end, so that what
// was corrected in front is seen (empirical bias correction, Nagel et al. 2019, arXiv 1906.04721). Conditions: some
// pass before quantized (the pipeline keeps what the model was then), calibration data, the value is there in both. A
// correction is kept only where held-out rows come nearer. Lossy.
#include <fmt/format.h>

#include "analysis/heal/channel_fit.h"
#include "passes/pass.h"
#include "passes/quantize/quantized_result.h"

namespace onnxfold {
namespace {

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
    bool any = false;
    for (const QuantizedResult& result : results) {
      const auto found = fits.find(result.value->name());
      if (found == fits.end()) continue;
      const ChannelFit& fit = found->second;
      const std::string label = result.product->label();
      if (!fit.accepted) {
        context.skipped(label, fit.why.empty() ? "the held-out error does not fall" : fit.why);
        continue;
      }
      OF_TRY(shift_channels(graph, result, fit.shift));
      context.note(label, fmt::format("bias corrected: held-out output error {:.3f} % (was {:.3f} %)",
                                      100 * fit.error_after, 100 * fit.error_before));
      any = true;
    }
    return any;
  }
};

}  // namespace

std::unique_ptr<Pass> make_correct_bias(const PassOptions&) { return std::make_unique<CorrectBias>(); }

}  // namespace onnxfold
