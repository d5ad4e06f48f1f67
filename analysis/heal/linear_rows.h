// Rows for refitting a Linear: what a changed model (student) feeds it against what the original (teacher) wants there.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/calibrate/gram.h"
#include "analysis/calibrate/part.h"
#include "analysis/calibrate/refit.h"
#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"

namespace onnxfold {

// What a Linear's output should be, by names of values. A reader (query, key, value, gate, up projections): the
// teacher's value `teacher`. A writer to the residual stream: `teacher` is the stream after it, and `student_rest`, the
// student's stream without it, is subtracted. With `through`, the student's sum goes through that norm before it
// meets `teacher`: the sum is moved so that its norm would be the teacher's value, its mean and deviation kept.
struct RefitTarget {
  std::string teacher;
  std::string student_rest;  // empty: a reader
  std::string student_sum;   // of a writer: the student's sum as it is, for `through`
  std::optional<Norm> through;
  std::vector<double> scale;  // per channel between Linear and stream (layer scale); empty: none
};

struct RefitJob {
  Linear linear;
  RefitTarget target;
};

// Values of the student and of the teacher that the job needs.
std::vector<std::string> student_values(const RefitJob& job);

// Inputs of a Linear on all data, a column of ones behind them where it has a bias, split into rows to fit and rows
// held out (refit.h), with their second moments. Linears that read the same value share them.
struct RefitInputs {
  std::string value;
  bool ones = false, masked = false;
  std::vector<FloatRows> fit, check;        // by batch
  std::vector<std::vector<char>> held_out;  // by batch
  Matrix fit_gram, check_gram;
};
// Whether rows of padding can be left out: of flattened values nobody knows which those are.
bool rows_maskable(const RefitJob& job, const Taps& student, const Taps& teacher);
// Errors: invalid_argument, what the value holds is no array of numbers.
Result<RefitInputs> refit_inputs(const RefitJob& job, const Recording& student, const Dataset& data,
                                 const std::vector<RowMask>& masks, bool masked);
// What `prior` leaves over of the job's targets. Nullopt when rows of the two models do not correspond (routed experts,
// other shapes).
Result<std::optional<LeftOver>> left_over(const RefitJob& job, const RefitInputs& inputs, const Matrix& prior,
                                          const Recording& student, const Recording& teacher,
                                          const std::vector<RowMask>& masks);

// Weight and bias as refits want them, and back into the graph of the student. Errors: those of the weight.
Result<Matrix> stacked_weight(const Linear& linear);
Status put_stacked(Graph& graph, const Linear& linear, const Matrix& stacked);

}  // namespace onnxfold
