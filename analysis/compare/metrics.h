// Two models on the same data: how far apart are their outputs, and does the second still do its job.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "exec/executor.h"

namespace onnxfold {

// Per output, over all batches. All accumulated in double, in batch order.
struct OutputMetrics {
  std::string output;
  double max_abs = 0;     // largest |a - b|
  double max_rel_l2 = 0;  // largest over batches of ||a - b|| / ||a||
  double cosine = 1;      // smallest over samples (rows of the first axis; batches of one number each) of cos(a, b)
  double sqnr_db = std::numeric_limits<double>::infinity();  // 10 log10(sum a^2 / sum (a-b)^2)
  std::optional<double> kl;     // mean KL(softmax a || softmax b) over rows of the last axis, nats; for logits only
  std::optional<double> top1;   // share of rows whose arg max agrees
  std::string worst_element;    // "[3,17]: 0.25 against 0.31 (batch 0)"
  bool new_nan_or_inf = false;  // b has NaN/Inf where a has none
  bool shape_or_type_differs = false;
  bool exact = true;  // bit-equal
  std::int64_t elements = 0;
  std::int64_t compared = 0;  // elements but for padding and those that are NaN or infinite in both models
  std::int64_t padding = 0;   // elements left out because a mask of the data says that they are padding
};

// What the data's targets allow: labels -> accuracy; token models -> perplexity (next token, or given targets).
struct TaskMetrics {
  std::string kind;  // "accuracy", "bits per byte", "perplexity"; empty: none
  double before = 0, after = 0;
  double loss_before = 0, loss_after = 0;  // mean cross-entropy, nats
  std::int64_t samples = 0;
};

struct Comparison {
  std::vector<OutputMetrics> outputs;
  std::optional<TaskMetrics> task;
  std::string data_origin;
  std::int64_t samples = 0;
  // First inner value (in topological order of the first model) of the same name whose relative L2 error exceeds the
  // tolerance; empty when none was asked for or found.
  std::string first_divergence;
};

struct CompareOptions {
  Precision precision = Precision::kFloat32;
  bool locate = false;  // look for the first divergence (taps on both models)
  double locate_tolerance = 1e-3;
  std::function<void(double done)> progress;  // 0..1, after every batch
  bool fewer = false;  // the second model may lack inputs and outputs of the first (caches of removed blocks)
  // Compare rows of outputs that are padding by a mask input of the data as well (see padding.h). The task metric
  // never counts them.
  bool padding = true;
};

// Errors: invalid_argument when inputs or outputs of the two models do not correspond, naming the first difference.
Result<Comparison> compare_models(const Model& before, const Model& after, const Dataset& data,
                                  const CompareOptions& options = {});

}  // namespace onnxfold
