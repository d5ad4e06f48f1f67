// Runs a model over a data set.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "exec/executor.h"
#include "exec/integer/integer_executor.h"

namespace onnxfold {

// Outputs and taps by name. Batches are joined along the first axis; where that does not fit (scalars, other shapes),
// batch i goes under "name.i". Errors: of the executor; unsupported for outputs that are no arrays.
Result<std::map<std::string, Tensor>> run_model(const Model& model, const Dataset& data, const ExecutorOptions& options,
                                                const std::function<void(double done)>& progress = nullptr);

// The same on integers (exec/integer): models of pass bct.
Result<std::map<std::string, Tensor>> run_model_on_integers(const Model& model, const Dataset& data,
                                                            const std::vector<std::string>& taps, IntegerCounts& counts,
                                                            const std::function<void(double done)>& progress = nullptr);

}  // namespace onnxfold
