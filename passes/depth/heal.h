// Healing: closed-form repairs of the place where a unit was taken out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/calibrate/part.h"
#include "analysis/compare/damage.h"
#include "ir/model.h"

namespace onnxfold {

// A model with a gap, and what is needed to close it.
struct Gap {
  Model& student;
  const Model& teacher;  // the model before anything was removed; names of values agree
  const Dataset& data;
  const Recording& teacher_values;                 // the teacher's stream on the data
  const Recording& student_values;                 // the student's stream on the data before the unit was removed
  std::string stream;                              // the student's value that stands there now
  std::string wanted;                              // the teacher's value that stood there
  std::map<std::string, std::string> others = {};  // other gaps: the student's stream there, the teacher's wanted there
};

// What was done, for the report. Each changes the student only where the held-out error falls.
using HealNotes = std::vector<std::string>;

// The last down projection in front of the gap is solved anew, toward its old weight, from the student's hidden values
// to the teacher's stream behind the gap (ours; level 2 of analysis notes on FuseGPT).
Result<HealNotes> heal_ridge_down(const Gap& gap);
// The same, and then every Linear behind the gap up to the end of the stream (ours).
Result<HealNotes> heal_ridge_stream(const Gap& gap);
// ReplaceMe (arXiv 2505.02819): W_down' = W_down T with T = argmin ||M T - (L - Y)||, toward the identity.
Result<HealNotes> heal_replaceme(const Gap& gap);
// LinearPatch (arXiv 2505.24680): the stream is scaled in a Hadamard basis where the gap is: one product of width^2.
Result<HealNotes> heal_linear_patch(const Gap& gap);

// EnsembleScale (arXiv 2308.06548): what the head reads of each path is scaled; for the whole model at once, when all
// gaps are there (ensemble_scale.cc). The student changes only where its damage falls as well.
Result<HealNotes> scale_paths(Model& student, const Model& teacher, const Dataset& data, bool by_channel,
                              const DamageMeter& judge);

}  // namespace onnxfold
