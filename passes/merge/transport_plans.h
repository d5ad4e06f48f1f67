// Transport plans of sites, from how similar their neurons are.
#pragma once

#include <vector>

#include "analysis/align/cross_statistics.h"
#include "passes/merge/transport_sites.h"

namespace onnxfold {

struct SitePlan {
  Matrix plan;                   // [n0, n1], sums to 1
  double before = 0, after = 0;  // mean similarity of what goes together: in the order of the files, by the plan
  double cost = 0, sharpness = 1;
};

// Of sites that move heads alike (one attention's), or of one site. Heads kept apart: plans inside of every pair of
// heads, and an exact one over the heads by what the pairs cost in all sites. Errors: those of transport.h.
Result<std::vector<SitePlan>> solve_sites(const std::vector<const TransportSite*>& sites,
                                          const std::vector<Similarity>& similarities, const TransportOptions& options);
// Of features with one number a neuron, or of constants.
Result<SitePlan> solve_distances(const Similarity& similarity, const Matrix& cost, const TransportOptions& options);

// Both models on the same data: similarities of the sites (correlation), and mean magnitudes by channel of the anchor's
// values `joins` [value, axis]. Errors: those of the executor.
struct ActivationFeatures {
  std::vector<Similarity> similarities;
  std::map<const Value*, std::vector<double>> magnitudes;
};
Result<ActivationFeatures> activation_features(const Model& model, const Model& anchor,
                                               const std::vector<TransportSite>& sites,
                                               const std::map<const Value*, int>& joins,
                                               const TransportOptions& options);

}  // namespace onnxfold
