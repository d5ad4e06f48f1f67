// Bringing one model into another's basis without changing what it computes.
//
// Neurons of a hidden layer are permuted, the residual stream is rotated (between norms without gains: LayerNorm lets
// rotations pass that keep the vector of ones, RMSNorm any), heads are permuted and rotated inside: softmax(q R (k R)')
// (v S) S' o. Every map is found from what both models compute on the same data (orthogonal Procrustes, assignment of
// correlated neurons), then from their weights, group by group with the others held still, until nothing improves.
// Sources: Ainsworth et al., Git Re-Basin (ICLR 2023); "Beyond the Permutation Symmetry of Transformers".
#pragma once

#include <memory>

#include "analysis/calibrate/dataset.h"
#include "passes/merge/method.h"

namespace onnxfold {

struct AlignmentOptions {
  bool rotate = true;             // false: permutations only (Git Re-Basin)
  const Dataset* data = nullptr;  // null: from weights only
  int sweeps = 30;                // over the weights, at most; 0: what the activations say
};

struct Alignment {
  std::unique_ptr<Model> model;              // computes what it did before
  std::vector<MergeLayer> layers;            // similarity before and after
  double distance_before = 0, distance = 0;  // Frobenius, over all weights
};

// Gives every use of a shared vector its own copy, so that its readers' neurons may go different ways.
void unshare_vectors(Graph& graph);

// REQUIRES: the models correspond; types are inferred. Changes `model` only by unsharing. Errors: invalid_argument when
// widths differ; those of the executor.
Result<Alignment> align_model(Model& model, Model& anchor, const AlignmentOptions& options);

}  // namespace onnxfold
