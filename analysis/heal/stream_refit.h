// Refits the Linears of a changed model, front to back, so that its residual stream follows the original's again.
//
// Student inputs, teacher targets (Kwon et al., arXiv 2204.09656): every Linear is solved for what the original
// computes there, from what the changed model feeds it after everything in front was refitted. Writers to the stream
// (attention output and down projections) aim at the original's stream, so that they also make up for what is missing
// before them. Each new weight is taken only when it does better on held-out rows.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/heal/linear_rows.h"
#include "analysis/heal/model_walk.h"
#include "analysis/heal/refit_targets.h"
#include "analysis/structure/blocks.h"

namespace onnxfold {

struct StreamRefitOptions {
  bool readers = true;     // query, key, value, gate and up projections behind the cut
  bool writers = true;     // attention output and down projections behind the cut
  bool at_the_cut = true;  // the last writer in front of it
  double least_damping = 1e-4;
  // Where else something is missing: a value of the student's stream, and the teacher's that it must stand for.
  std::map<std::string, std::string> gaps;
};

struct RefitNote {
  std::string node, text;
  bool accepted = false;
};

class StreamRefit {
 public:
  // `teacher_values` holds values of the teacher on the data (the stream between blocks, or nothing: then the teacher
  // runs from its inputs). All must outlive this.
  StreamRefit(Model& student, const Model& teacher, const Dataset& data, const Recording& teacher_values);

  // The student's stream value `student_stream` should be the teacher's `teacher_stream`: refits the writer that makes
  // it, then the blocks behind it up to the end of the stream. `known` holds values of the student recorded before the
  // change; those that the refits touch are dropped and made again. Errors: the executor's and solver's.
  Status heal(const std::string& student_stream, const std::string& teacher_stream, Recording known,
              const StreamRefitOptions& options);
  // Refits everything, from the first block to the outputs: after a change of all weights.
  Status heal_all(const StreamRefitOptions& options);
  const std::vector<RefitNote>& notes() const { return notes_; }

 private:
  Status refit_in_order(const std::vector<RefitJob>& jobs, const StreamRefitOptions& options);
  Status refit_one(const RefitJob& job, ModelWalk& student, ModelWalk& teacher, const StreamRefitOptions& options);
  Status feed_on(const RefitJob& job, ModelWalk& student);
  Result<std::vector<RefitJob>> jobs_behind(const Value* teacher_stream, const StreamRefitOptions& options);
  std::optional<RefitJob> job_of(const Linear& teacher_linear, const StreamRefitOptions& options) const;
  void forget_from(const Node& node);

  Model& student_;
  const Model& teacher_;
  const Dataset& data_;
  const Recording& teacher_values_;
  std::vector<RowMask> masks_;
  BlockView view_;        // of the teacher
  RefitTargets targets_;  // of the teacher
  Recording known_;
  std::optional<RefitInputs> inputs_;  // of the last Linear
  std::vector<RefitNote> notes_;
};

// The Linear that writes a sublayer's result to the stream, through layer scale, Reshape, Cast and the like; none when
// something else stands there (a norm, a gate).
struct StreamWriter {
  Linear linear;
  std::vector<double> scale;
};
Result<std::optional<StreamWriter>> stream_writer(const Sublayer& sublayer);
// The stream behind a sublayer: the sum itself where a norm is fused to it; null when nothing makes it.
Value* stream_sum(const Sublayer& sublayer);
// The job of making the student's stream value `stream` the teacher's `wanted` through the writer that makes it; none
// when it is not made by one writer alone.
Result<std::optional<RefitJob>> job_at_cut(const BlockView& student, const Value* stream, const std::string& wanted);

}  // namespace onnxfold
