// Parts of a model: what lies between some of its values and others, to be run on recorded values.
//
// Recording what one run computed makes it cheap to try changes: only the part behind a change runs again, from the
// recorded values in front of it (the cached prefix).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/calibrate/statistics.h"
#include "ir/model.h"

namespace onnxfold {

// A copy of the model whose inputs are `inputs` (inner values or inputs) and those of its own inputs that are still
// needed, and whose outputs are `outputs`; nothing else is kept. Weights are shared. Values keep their names; inputs
// that turn out not to be needed are left out. Errors: invalid_argument for an unknown name.
Result<std::unique_ptr<Model>> model_part(const Model& model, const std::vector<std::string>& inputs,
                                          const std::vector<std::string>& outputs);

// Values of a model, batch by batch.
struct Recording {
  std::vector<Taps> batches;

  std::vector<std::string> names() const;
  void forget(const std::string& name);
  // Adds what another recording of the same data holds; its values win.
  void merge(Recording other);
};

// Runs the model on every batch and keeps these values (inner ones, inputs and outputs). An input of the model is fed
// from `recorded` when that holds it, else from the data. Errors: those of the executor.
Result<Recording> record(const Model& model, const Dataset& data, const std::vector<std::string>& values,
                         const Recording* recorded = nullptr);
// Runs only what lies between the recorded values and the wanted ones.
Result<Recording> replay(const Model& model, const Dataset& data, const Recording& recorded,
                         const std::vector<std::string>& values);

}  // namespace onnxfold
