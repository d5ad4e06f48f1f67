// A dataset in two: samples to fit to, and samples held out to judge on.
//
// What is chosen by a measurement on the samples that it was fitted to is chosen for what it learned by heart. The
// samples held out are those of held_out_rows() (refit.h): every eighth.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/calibrate/dataset.h"

namespace onnxfold {

struct SampleSplit {
  Dataset fit, check;  // each with its own targets
};

// The rows of `target`, one a sample of all the data, that belong to `samples` (ascending). A target that is not by
// sample stays whole. Errors: those of reading it.
Result<Tensor> target_of_samples(const Tensor& target, const std::vector<std::int64_t>& samples);

// Batches keep their order and lose the samples of the other part. Nullopt where that cannot be: fewer than eight
// samples, or a batch whose size the model declares and that would have to be cut. Errors: those of reading targets.
Result<std::optional<SampleSplit>> split_samples(const Model& model, const Dataset& data);

}  // namespace onnxfold
