// Checked inputs of a run. Internal to the executor.
#pragma once

#include <vector>

#include "exec/executor.h"

namespace onnxfold {

// The same data in the storage of `precision`.
Datum in_precision(Datum datum, Precision precision);
// By position of the graph inputs. More feeds than inputs are fine when every input has one. Errors: invalid_argument
// (an input missing, of the wrong type, or unknown while another has no feed).
Result<std::vector<Datum>> collect_feeds(const Graph& graph, const Feeds& feeds, Precision precision);

}  // namespace onnxfold
