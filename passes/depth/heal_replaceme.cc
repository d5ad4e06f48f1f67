#include <fmt/format.h>

#include <cmath>

#include "analysis/heal/stream_refit.h"
#include "passes/depth/heal.h"

namespace onnxfold {

Result<HealNotes> heal_replaceme(const Gap& gap) {
  Graph& graph = gap.student.graph();
  OF_ASSIGN(const auto job, job_at_cut(find_blocks(graph), graph.find(gap.stream), gap.wanted));
  if (!job) return HealNotes{"no Linear alone writes the stream in front of the gap"};
  const Linear& down = job->linear;
  if (down.weight->uses().size() > 1)
    return HealNotes{fmt::format("'{}': its weight is shared", down.product->label())};
  RefitJob map = *job;  // from the projection's output instead of its input
  map.linear.input = down.output;
  map.linear.in = down.out;
  map.linear.bias = nullptr;
  Recording known = gap.student_values;
  for (const std::string& name : known.names()) {
    const Value* value = graph.find(name);
    const bool earlier =
        value != nullptr && (value->producer() == nullptr || graph.before(*value->producer(), *down.product));
    if (!earlier) known.forget(name);
  }
  OF_ASSIGN(const Recording student, replay(gap.student, gap.data, known, student_values(map)));
  OF_ASSIGN(const Recording teacher, replay(gap.teacher, gap.data, gap.teacher_values, {gap.wanted}));
  std::vector<RowMask> masks;
  for (const Feeds& feeds : gap.data.batches) masks.push_back(row_mask(gap.student, feeds));
  const bool masked = rows_maskable(map, student.batches.at(0), teacher.batches.at(0));
  OF_ASSIGN(const RefitInputs inputs, refit_inputs(map, student, gap.data, masks, masked));
  const Matrix none = identity_matrix(down.out);
  OF_ASSIGN(const auto rows, left_over(map, inputs, none, student, teacher, masks));
  if (!rows) return HealNotes{"rows of the two models do not correspond"};
  OF_ASSIGN(const Refit solved, refit_left_over(*rows, none, default_dampings()));
  if (!solved.accepted) return HealNotes{fmt::format("no map lowers the held-out error {:.4f}", solved.error_before)};
  OF_ASSIGN(const Matrix weight, stacked_weight(down));
  OF_TRY(put_stacked(graph, down, product(weight, solved.weight)));
  return HealNotes{fmt::format("'{}' times a map: held-out error {:.4f} -> {:.4f}", down.product->label(),
                               solved.error_before, solved.error_after)};
}

}  // namespace onnxfold
