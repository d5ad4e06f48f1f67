// y = Op(x, Wq) + b => y = Op(x, Wq) + b + c: quantized products and convolutions get their mean back.
//
// c = E[y of the model before] - E[y] by channel, over the calibration data, from the front to the end, so that what
// was corrected in front is seen (empirical bias correction, Nagel et al. 2019, arXiv 1906.04721). Rows count by their
// relative error (channel_fit.h). Conditions: some pass before quantized (the pipeline keeps what the model was then),
// calibration data, the value is there in both. A correction is kept only where held-out rows come nearer. Tried: all
// products; and those that do not add to a residual stream, since a norm makes good a stream that low bits made smaller
// as a whole, but not one whose mean alone is restored. Kept is what brings the outputs of the model nearest on
// held-out rows, or nothing. Lossy.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "analysis/heal/channel_fit.h"
#include "analysis/heal/outcome.h"
#include "ir/match.h"
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
    OF_ASSIGN(const Fits fits, best_fits(graph, context));
    for (const QuantizedResult& result : find_quantized_results(graph)) say(result, fits, context);
    return apply(graph, fits);
  }

 private:
  static Result<Fits> fit(PassContext& context, const std::vector<QuantizedResult>& results) {
    std::vector<ChannelSite> sites;
    for (const QuantizedResult& result : results) {
      sites.push_back({result.value->name(), result.axis, /*scale=*/false, /*shift=*/true});
    }
    return fit_channels(context.model(), *context.reference, *context.calibration, sites);
  }

  // Empty when none brings the outputs nearer.
  static Result<Fits> best_fits(const Graph& graph, PassContext& context) {
    const std::vector<QuantizedResult> all = find_quantized_results(graph);
    std::vector<QuantizedResult> inner;
    std::copy_if(all.begin(), all.end(), std::back_inserter(inner),
                 [](const QuantizedResult& result) { return !adds_to_stream(result); });
    std::vector<Fits> tried;
    OF_ASSIGN(Fits first, fit(context, all));
    tried.push_back(std::move(first));
    if (!inner.empty() && inner.size() < all.size()) {
      OF_ASSIGN(Fits second, fit(context, inner));
      tried.push_back(std::move(second));
    }
    std::vector<std::unique_ptr<Model>> trials;
    std::vector<const Model*> models{&context.model()};
    for (const Fits& fits : tried) {
      trials.push_back(context.model().clone());
      OF_ASSIGN([[maybe_unused]] const bool any, apply(trials.back()->graph(), fits));
      models.push_back(trials.back().get());
    }
    OF_ASSIGN(const std::vector<double> damage, held_out_damage(*context.reference, *context.calibration, models));
    const auto best = std::min_element(damage.begin(), damage.end());
    if (best != damage.begin()) {
      context.note("model", fmt::format("held-out damage of the outputs {:.3g} (was {:.3g})", *best, damage[0]));
      return std::move(tried[static_cast<std::size_t>(best - damage.begin() - 1)]);
    }
    if (!has_accepted(tried[0])) return std::move(tried[0]);
    context.note("model",
                 fmt::format("no bias corrected: results come nearer one by one, but the outputs go away (damage "
                             "{:.3g}, was {:.3g})",
                             *std::min_element(damage.begin() + 1, damage.end()), damage[0]));
    return Fits();
  }

  static bool has_accepted(const Fits& fits) {
    return std::any_of(fits.begin(), fits.end(), [](const auto& each) { return each.second.accepted; });
  }

  static bool adds_to_stream(const QuantizedResult& result) {
    return std::any_of(result.value->uses().begin(), result.value->uses().end(), [](const Use& use) {
      return use.node != nullptr && use.node->is("Add") && constant(use.node->input(0)) == nullptr &&
             constant(use.node->input(1)) == nullptr;
    });
  }

  static void say(const QuantizedResult& result, const Fits& fits, PassContext& context) {
    const auto found = fits.find(result.value->name());
    if (found == fits.end()) return;
    const ChannelFit& fit = found->second;
    const std::string label = result.product->label();
    if (fit.accepted) {
      context.note(label, fmt::format("bias corrected: held-out output error {:.3f} % (was {:.3f} %)",
                                      100 * fit.error_after, 100 * fit.error_before));
    } else {
      context.skipped(label, fit.why.empty() ? "the held-out error does not fall" : fit.why);
    }
  }

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
};

}  // namespace

std::unique_ptr<Pass> make_correct_bias(const PassOptions&) { return std::make_unique<CorrectBias>(); }

}  // namespace onnxfold
