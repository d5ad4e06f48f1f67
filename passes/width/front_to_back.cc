#include "passes/width/front_to_back.h"

#include <fmt/format.h>

#include "analysis/compare/damage.h"
#include "analysis/heal/stream_refit.h"

namespace onnxfold {
namespace {

// Returns what happened, for the report.
Result<std::string> refit_front_to_back(Model& student, const Model& teacher, const Dataset& data, bool refit) {
  OF_ASSIGN(const DamageMeter judge, DamageMeter::create(teacher, data));
  OF_ASSIGN(const Damage plain, judge.measure(student));
  std::string text = fmt::format("on the calibration data: {} {:.4f} -> {:.4f}", judge.kind_name(),
                                 judge.original().value, plain.value);
  if (!refit) return text;
  const Recording nothing{std::vector<Taps>(data.batches.size())};
  const std::unique_ptr<Model> healed = student.clone();
  StreamRefit front(*healed, teacher, data, nothing);
  OF_TRY(front.heal_all({}));
  OF_ASSIGN(const Damage better, judge.measure(*healed));
  const bool helps = better.value < plain.value;
  text += fmt::format(", refitted front to back {:.4f}{}", better.value, helps ? "" : " (not kept)");
  if (helps) student.adopt_graph(*healed);
  return text;
}

}  // namespace

Status adopt_refitted(PassContext& context, Model& student, bool refit) {
  student.graph().purge();
  if (context.calibration != nullptr) {
    OF_ASSIGN(const std::string text, refit_front_to_back(student, context.model(), *context.calibration, refit));
    context.note("", text);
  }
  context.model().adopt_graph(student);
  return {};
}

}  // namespace onnxfold
