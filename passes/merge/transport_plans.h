// Transport plans of sites, from how similar their neurons are.
#pragma once

#include <optional>
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

// By site; none as long as nobody asked.
using SitePlans = std::vector<std::optional<SitePlan>>;
// solve_sites of the sites with these numbers, put into `plans`. Errors carry the first one's name.
Status solve_team(const std::vector<std::size_t>& team, const std::vector<Similarity>& similarities,
                  const TransportSites& sites, const TransportOptions& options, SitePlans& plans);

}  // namespace onnxfold
