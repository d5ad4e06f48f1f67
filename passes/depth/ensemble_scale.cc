// x_L = x_0 + f_1 + f_2 + ...  =>  the head reads s_0 x_0 + s_1 f_1 + s_2 f_2 + ...; blocks read what they read before.
//
// EnsembleScale of "Vision Transformer as a path ensemble" (arXiv 2308.06548), the scales in closed form: those that
// bring the stream behind the last block closest to that of the model before the lossy passes. Conditions: a stream
// that is a plain sum (pre-norm or parallel blocks). Kept only when the error of that stream on rows held out falls and
// the outputs do not become worse on the data. Costs a Mul and an Add for each path, no parameters worth the name.
#include <fmt/format.h>

#include "analysis/compare/damage.h"
#include "analysis/depth/stream_paths.h"
#include "passes/depth/heal.h"
#include "passes/pass.h"

namespace onnxfold {

Result<HealNotes> scale_paths(Model& student, const Model& teacher, const Dataset& data, bool by_channel,
                              const DamageMeter& judge) {
  const auto scales = fit_path_scales(student, teacher, data, by_channel);
  if (!scales && scales.error().code == Code::kUnsupported) return HealNotes{"not scaled: " + scales.error().message};
  if (!scales) return fail(scales.error().code, scales.error().message);
  if (!scales->accepted) {
    return HealNotes{fmt::format("kept: no scales lower the held-out error {:.4f}", scales->error_before)};
  }
  OF_ASSIGN(const Damage before, judge.measure(student));
  const std::unique_ptr<Model> scaled = student.clone();
  OF_ASSIGN(const std::size_t paths, put_path_scales(scaled->graph(), *scales));
  OF_ASSIGN(const Damage after, judge.measure(*scaled));
  const std::string text =
      fmt::format("{} paths, held-out error {:.4f} -> {:.4f}, {} {:.4f} -> {:.4f}", paths, scales->error_before,
                  scales->error_after, judge.kind_name(), before.value, after.value);
  if (!(after.value < before.value)) return HealNotes{"kept: scaled would be " + text};
  student.adopt_graph(*scaled);
  return HealNotes{"scaled: " + text};
}

namespace {

class EnsembleScale final : public Pass {
 public:
  explicit EnsembleScale(const PassOptions& options) : by_channel_(options.text("scale") == "channel") {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph()) return false;
    if (context.reference == nullptr) {
      context.skipped(graph.name, "nothing to repair: no lossy pass came before");
      return false;
    }
    if (context.calibration == nullptr) {
      return fail(Code::kInvalidArgument, "scales are fitted to data (--calibration F.npz)");
    }
    OF_ASSIGN(const DamageMeter judge, DamageMeter::create(*context.reference, *context.calibration));
    const std::unique_ptr<Model> student = context.model().clone();
    OF_ASSIGN(const HealNotes notes,
              scale_paths(*student, *context.reference, *context.calibration, by_channel_, judge));
    if (!notes.front().starts_with("scaled")) {
      context.skipped(graph.name, notes.front());
      return false;
    }
    context.applied(graph.name, notes.front());
    context.model().adopt_graph(*student);
    return true;
  }

 private:
  const bool by_channel_;
};

}  // namespace

std::unique_ptr<Pass> make_ensemble_scale(const PassOptions& options) {
  return std::make_unique<EnsembleScale>(options);
}

}  // namespace onnxfold
