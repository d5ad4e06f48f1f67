// A model carried over into an anchor's neurons by optimal transport (Singh and Jaggi, 2020; Imfeld et al., 2024).
//
// The anchor's graph is walked forwards with a transport map on every axis of channels: a Linear undoes the map of its
// input (W' = W T_in, rows of T_in sum to 1), gets a map of its own from its features, and is written in the anchor's
// neurons (W'' = T_out' W', columns sum to 1: with different widths the two normalisations differ by n0 / n1). Norms
// and element-wise operators pass maps on, their vectors follow; residual joins combine two maps by a policy; values'
// map goes behind attention into the output Linear, queries' and keys' maps end in the scores.
#pragma once

#include <memory>

#include "ir/model.h"
#include "passes/merge/method.h"
#include "passes/merge/transport_sites.h"

namespace onnxfold {

struct Transported {
  std::unique_ptr<Model> model;    // the anchor's graph with the other model's weights, transported
  std::vector<MergeLayer> layers;  // a row for each map
  std::vector<std::string> notes;
};

// REQUIRES: the models correspond; types are inferred. Changes both models only by unsharing vectors. Errors:
// invalid_argument, naming a weight whose neurons cannot be transported though widths differ, NaN or infinity;
// unsupported (see find_transport_sites); those of the executor.
Result<Transported> transport_model(Model& model, Model& anchor, const TransportOptions& options);

}  // namespace onnxfold
