// What each Linear of a changed model is refitted to: values of the original of the same names.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "analysis/heal/linear_rows.h"
#include "analysis/structure/blocks.h"

namespace onnxfold {

class RefitTargets {
 public:
  // Errors: those of reading layer scales.
  static Result<RefitTargets> create(const BlockView& teacher);

  // The job of the student's Linear whose output has the name of `teacher_linear`'s. Writers to the stream aim at the
  // teacher's stream behind them, all others at the teacher's output. None when the student has no such Linear or the
  // stream around it has changed.
  std::optional<RefitJob> job_of(const Graph& student, const Linear& teacher_linear) const;
  bool is_writer(const Linear& teacher_linear) const { return writers_.count(teacher_linear.output->name()) != 0; }

 private:
  struct Writer {
    std::string sum;
    std::size_t rest = 0;  // which input of the sum is the stream before it
    std::vector<double> scale;
  };
  std::map<std::string, Writer> writers_;  // by the name of the Linear's output
};

}  // namespace onnxfold
