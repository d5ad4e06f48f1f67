// Stepper: runs a model on several sets of inputs side by side, stops before chosen nodes, and lets weights change
// there.
//
// Methods that go through a model from the front (quantize a weight, see what the changed model hands to the next one)
// would otherwise run the whole model once for every weight; with a Stepper every node runs once a batch. Between stops
// only the values that later nodes read are held, for every batch.
#pragma once

#include <memory>
#include <vector>

#include "exec/executor.h"

namespace onnxfold {

class Stepper {
 public:
  // Float32. REQUIRES that the model outlives the stepper unchanged. Errors: as Executor::create, and those of its
  // inputs.
  static Result<std::unique_ptr<Stepper>> create(const Model& model, const std::vector<Feeds>& batches);
  ~Stepper();

  // Runs all nodes before `node` that have not run yet (null: to the end) on every batch. A node that was passed
  // already: nothing happens. Errors: whatever a kernel reports.
  Status run_until(const Node* node);
  // A constant, or a value that was computed and that a node still to come reads; absent otherwise.
  Result<Datum> value(std::size_t batch, const Value& value) const;
  // From here on every batch reads `datum` in the place of a value, computed already or not. Errors: invalid_argument
  // when the model has no such value.
  Status replace(const Value& value, const Datum& datum);
  std::size_t batches() const;
  // A second one that stands where this one stands, to try something and throw it away: what was computed is shared,
  // nothing is run again. Neither hears of what the other does from here on.
  std::unique_ptr<Stepper> fork() const;

 private:
  struct State;
  explicit Stepper(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace onnxfold
