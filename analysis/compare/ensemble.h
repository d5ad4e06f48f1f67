// How close models come to the ensemble of their parents: the mean of the parents' softmax probabilities
// (Lakshminarayanan et al., 2017). The KL divergence to it needs no labels and ranks merged models as accuracy does.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/compare/metrics.h"

namespace onnxfold {

struct EnsembleScore {
  double kl = 0;       // mean KL(ensemble || model) over rows of the last axis of the scores, nats
  double rel_l2 = 0;   // ||model - mean of the parents' outputs|| / ||mean||, over all rows that count (padding.h)
  bool finite = true;  // no NaN or Inf in the scores
  std::optional<double> task;  // accuracy, perplexity, bits per byte
};

struct EnsembleReport {
  std::string output;  // the scores: what the task reads, else the first floating output of rank 2 or more
  std::string task;    // "accuracy", ...; empty when the data has no labels
  std::int64_t samples = 0;
  EnsembleScore ensemble;              // its KL is 0
  std::vector<EnsembleScore> parents;  // in their order
  std::vector<EnsembleScore> models;   // in their order
};

// Runs all models on all batches, in float32. REQUIRES inputs and outputs of the same names in all models. Errors:
// unsupported, when no output holds scores; those of the executor.
Result<EnsembleReport> score_against_ensemble(const std::vector<const Model*>& parents,
                                              const std::vector<const Model*>& models, const Dataset& data);

}  // namespace onnxfold
