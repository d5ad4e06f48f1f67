// Norm(x) * g + b => Norm(x) * g' + b': gains and biases of norms refitted toward the model before quantization.
//
// For each channel the least squares fit of what the norm gave then by what it gives now, from the front to the end
// (the cheapest repair after rounding without data: the error that reaches a norm is undone as far as one factor and
// one number a channel can). Conditions: a lossy pass before (the pipeline keeps what the model was then), calibration
// data; gain constant; bias constant or of a LayerNormalization, else only the gain is refitted. Kept only where
// held-out rows come nearer, and none when the outputs of the model do not. Lossy.
#include <fmt/format.h>

#include <map>

#include "analysis/heal/channel_fit.h"
#include "analysis/heal/outcome.h"
#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

struct Slot {
  Node* node = nullptr;
  std::size_t input = 0;
};

// Where the norm reads `value`, Identity nodes or not between.
Slot slot_of(const Norm& norm, const Value* value) {
  for (Node* node : norm.nodes) {
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      if (node->input(i) != nullptr && behind_identity(node->input(i)) == value) return {node, i};
    }
  }
  return {};
}

class RefitNorms final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument, "needs data to refit on: give --calibration FILE.npz");
    }
    if (graph.parent() != nullptr) return false;
    if (context.reference == nullptr) {
      context.note("model", "no lossy pass ran before, so there is nothing to repair");
      return false;
    }
    std::vector<ChannelSite> sites;
    for (const Norm& norm : find_norms(graph)) {
      if (!is_own(norm)) {
        context.skipped(norm.last()->label(), "its gain is no constant of its own");
        continue;
      }
      sites.push_back({norm.output->name(), -1, /*scale=*/true, has_bias(norm)});
    }
    OF_ASSIGN(const Fits fits, fit_channels(context.model(), *context.reference, *context.calibration, sites));
    const auto trial = context.model().clone();
    PassContext unheard(*trial, "");
    OF_ASSIGN(const bool any, apply(trial->graph(), fits, unheard));
    if (any) {
      OF_ASSIGN(const auto damage,
                held_out_damage(*context.reference, *context.calibration, {&context.model(), trial.get()}));
      if (!(damage[1] < damage[0])) {
        context.note("model", fmt::format("no norm refitted: they come nearer one by one, but the outputs go away "
                                          "(damage {:.3g}, was {:.3g})",
                                          damage[1], damage[0]));
        return false;
      }
    }
    return apply(graph, fits, context);
  }

 private:
  using Fits = std::map<std::string, ChannelFit>;

  static bool is_own(const Norm& norm) {
    return norm.gain != nullptr && constant(norm.gain) != nullptr && norm.gain != norm.bias;
  }

  static Result<bool> apply(Graph& graph, const Fits& fits, PassContext& context) {
    bool any = false;
    for (const Norm& norm : find_norms(graph)) {
      const auto found = fits.find(norm.output->name());
      if (found == fits.end() || !is_own(norm)) continue;
      const ChannelFit& fit = found->second;
      if (!fit.accepted) {
        context.skipped(norm.last()->label(), fit.why.empty() ? "the held-out error does not fall" : fit.why);
        continue;
      }
      OF_TRY(put(graph, norm, fit));
      context.note(norm.last()->label(), fmt::format("refitted: held-out error {:.2f} % (was {:.2f} %)",
                                                     100 * fit.error_after, 100 * fit.error_before));
      any = true;
    }
    return any;
  }

  static bool has_bias(const Norm& norm) {
    if (norm.bias != nullptr) return constant(norm.bias) != nullptr;
    return norm.fused && norm.last()->is("LayerNormalization");
  }

  static Status put(Graph& graph, const Norm& norm, const ChannelFit& fit) {
    OF_ASSIGN(std::vector<double> gain, to_doubles(*constant(norm.gain)));
    for (std::size_t i = 0; i < gain.size(); ++i) gain[i] *= fit.scale[i];
    std::vector<double> bias(gain.size());
    if (norm.bias != nullptr && constant(norm.bias) != nullptr) {
      OF_ASSIGN(bias, to_doubles(*constant(norm.bias)));
    }
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = bias[i] * fit.scale[i] + fit.shift[i];
    const Tensor& old = *constant(norm.gain);
    const Slot gain_slot = slot_of(norm, norm.gain);
    OF_TRY(replace(graph, gain_slot, old.dtype(), old.dims(), gain, norm.gain->name()));
    if (!has_bias(norm)) return {};
    if (norm.bias == nullptr) {
      return replace(graph, {norm.last(), 2}, old.dtype(), old.dims(), bias, norm.output->name() + "_bias");
    }
    const Tensor& old_bias = *constant(norm.bias);
    return replace(graph, slot_of(norm, norm.bias), old_bias.dtype(), old_bias.dims(), bias, norm.bias->name());
  }

  static Status replace(Graph& graph, const Slot& slot, DType dtype, const Dims& dims,
                        const std::vector<double>& numbers, const std::string& name) {
    OF_ASSIGN(Tensor made, from_doubles(dtype, dims, numbers));
    Value* old = slot.node->input(slot.input);
    graph.set_input(*slot.node, slot.input, add_constant(graph, std::move(made), name));
    if (old != nullptr) erase_if_unused(graph, *old);
    return {};
  }
};

}  // namespace

std::unique_ptr<Pass> make_refit_norms(const PassOptions&) { return std::make_unique<RefitNorms>(); }

}  // namespace onnxfold
