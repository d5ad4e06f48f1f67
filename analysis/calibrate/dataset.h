// Data to run a model on: from .npz, from .pb tensors, or generated from the model's inputs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "exec/executor.h"
#include "ir/model.h"

namespace onnxfold {

// Named arrays whose first axis counts samples (npz), or whole samples (a directory of .pb files).
struct Dataset {
  std::vector<Feeds> batches;             // what to feed, input names matched to the model
  std::map<std::string, Tensor> targets;  // arrays of the file that are no model input: labels, next tokens
  std::vector<std::int64_t> batch_sizes;  // samples in each batch
  std::string origin;                     // "digits_test.npz, 1000 samples" or "generated, seed 0"
};

struct DatasetOptions {
  std::int64_t batch_size = 32;  // for models whose first axis is dynamic; else what the model declares
  std::int64_t max_samples = 0;  // 0: all
};

// Reads PATH.npz, or a directory holding input_*.pb / test_data_set_*/input_*.pb (names inside, else by position).
// An array goes to the input of its name; when exactly one input and one fitting array are left, they go together.
// Errors: invalid_argument, naming the input, its expected type and shape, and what the file holds.
Result<Dataset> load_dataset(const Model& model, const std::string& path, const DatasetOptions& options = {});

// Seeded inputs that respect what the inputs are: integer inputs that index a table (through Gather) stay inside it;
// masks are mostly ones; position ids count up; past key/value caches are small normal numbers; images and others are
// normal. Dynamic dimensions take two different sizes (batches[0] and batches[1]); the same symbol has the same size
// everywhere.
Result<Dataset> generate_dataset(const Model& model, std::uint64_t seed);

}  // namespace onnxfold
