// Products with a constant weight, in the order in which data reach them, and what the data say about each.
//
// A walk runs two copies of the model side by side, batch by batch: the teacher with the weights as they are, and the
// student, whose weights change on the way. It stops before every group of products that read the same value, collects
// moments of what both hand over there, and asks for new weights. Every node runs once for each copy; one group's
// moments are held at a time.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/calibrate/gram.h"
#include "exec/stepper.h"
#include "passes/quantize/weight_target.h"

namespace onnxfold {

// Products of one input. A weight stands in it once, also when several products read it.
struct ProductGroup {
  Value* input = nullptr;
  std::vector<const WeightTarget*> targets;  // one a weight
};

// The groups of the main graph, in topological order. Targets that no row of data reaches one by one (tables, a Gemm
// with transA) are not in any; `other_uses`, when given, gets the products that read a weight of another group again.
std::vector<ProductGroup> product_groups(const std::vector<WeightTarget>& targets);

// Rows of a weight [outputs, inputs] in float. Errors: whatever loading it reports.
Result<FloatRows> weight_rows(const WeightTarget& target);
// REQUIRES: a matrix, inner is 1 or rows.
Result<FloatRows> weight_rows(const Tensor& weight, const BlockShape& shape);
// The same numbers as the node's operand would hold them.
Datum operand_of(const WeightTarget& target, const FloatRows& rows);

struct ProductMoments {
  FloatRows weight;   // [outputs, inputs]
  Matrix correction;  // [outputs, inputs]: what the teacher's outputs miss, (Y_t - Y_s)' X_s; empty without a teacher
  FloatRows held_target;  // [held rows, outputs]: what the outputs should be on held_inputs
};

struct GroupMoments {
  std::int64_t rows = 0;                 // in gram
  Matrix gram;                           // X_s' X_s of the student's inputs
  FloatRows held_inputs;                 // rows that are in no moment: to judge by
  std::vector<ProductMoments> products;  // by target of the group
};

struct WalkOptions {
  bool teacher = true;        // collect corrections
  double held_out = 0.05;     // share of the rows
  std::int64_t max_rows = 0;  // in a group's moments, evenly chosen; 0: all
};

// Called at each group; returns the new weight [outputs, inputs] for each target (an empty one: unchanged).
using GroupVisitor =
    std::function<Result<std::vector<FloatRows>>(const ProductGroup& group, const GroupMoments& moments)>;

// Errors: those of the executor and the visitor's.
Status walk_products(const Model& model, const Dataset& data, const std::vector<ProductGroup>& groups,
                     const WalkOptions& options, const GroupVisitor& visit);

}  // namespace onnxfold
