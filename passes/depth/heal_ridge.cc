#include <fmt/format.h>

#include "analysis/heal/stream_refit.h"
#include "passes/depth/heal.h"

namespace onnxfold {
namespace {

Result<HealNotes> heal(const Gap& gap, const StreamRefitOptions& options) {
  StreamRefit refit(gap.student, gap.teacher, gap.data, gap.teacher_values);
  OF_TRY(refit.heal(gap.stream, gap.wanted, gap.student_values, options));
  std::size_t accepted = 0;
  HealNotes notes;
  for (const RefitNote& note : refit.notes()) {
    accepted += note.accepted ? 1 : 0;
    if (refit.notes().size() == 1) notes.push_back(fmt::format("'{}' {}", note.node, note.text));
  }
  if (refit.notes().empty()) notes.emplace_back("no Linear writes the stream in front of the gap");
  if (refit.notes().size() > 1) {
    notes.push_back(fmt::format("{} of {} Linears refitted", accepted, refit.notes().size()));
  }
  return notes;
}

}  // namespace

Result<HealNotes> heal_ridge_down(const Gap& gap) {
  StreamRefitOptions options;
  options.readers = options.writers = false;
  return heal(gap, options);
}

Result<HealNotes> heal_ridge_stream(const Gap& gap) {
  StreamRefitOptions options;
  options.gaps = gap.others;
  return heal(gap, options);
}

}  // namespace onnxfold
