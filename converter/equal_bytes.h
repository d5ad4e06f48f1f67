// The honest comparison beside a lossy result: what whitened low rank and quantization would have cost at equal bytes.
//
// Both are run on the same original, with the same calibration data, and measured on the same data as the result.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/compare/metrics.h"
#include "ir/model.h"

namespace onnxfold {

struct EqualBytesRow {
  std::string method;  // "original", "this result", "low rank, whitened", "8 bits (rtn-search)"...
  std::int64_t weight_bytes = 0;
  std::optional<double> task;  // of the kind that EqualBytes::task names
  std::optional<double> kl;    // to the original's outputs, nats, where they are scores
  double rel_l2 = 0;           // of the outputs; the largest over outputs and batches
  std::string not_done;        // why there are no numbers; else empty
};

struct EqualBytes {
  std::string task;      // "accuracy", "bits per byte", "perplexity" or empty
  std::string data;      // what it was measured on
  std::string left_out;  // why there are no controls; else empty
  std::vector<EqualBytesRow> rows;
  double seconds = 0;
};

struct EqualBytesOptions {
  std::int64_t bytes = 0;                // of the weights of the result
  const Dataset* calibration = nullptr;  // null: truncated SVD and rtn-search instead of whitening and gptq
  std::uint64_t seed = 0;
  std::function<void(double done)> progress = nullptr;
};

// Work of the low-rank control: the sum of in * out * min(in, out) over the Linears; some 1e8 take a second of one
// core.
double low_rank_work(const Model& before);

// Rows "low rank" and "quantization": the widest of 8, 4, 3, 2 bits that fits into the bytes. A method that cannot be
// brought down to these bytes says so in its row. Errors: those of the passes and of the comparison.
Result<EqualBytes> equal_bytes_controls(const Model& before, const Dataset& data, const EqualBytesOptions& options);
// A row from what was compared already.
EqualBytesRow equal_bytes_row(std::string method, std::int64_t bytes, const Comparison& comparison);

}  // namespace onnxfold
