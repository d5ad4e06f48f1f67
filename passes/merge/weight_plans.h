// Transport plans from weights: what sends neurons says which of them are alike, once it is known what reaches them.
#pragma once

#include <functional>
#include <utility>

#include "passes/merge/transport_plans.h"

namespace onnxfold {

// Weights into a part's neurons, one a column: of the model behind the maps of what they read, and of the anchor.
using PartWeights = std::function<Result<std::pair<Matrix, Matrix>>(const SitePart&)>;

// The plan of a site that has none yet, put into `plans`; with heads apart, of all sites of its attention.
Status plan_from_weights(std::size_t site, const TransportSites& sites, const TransportOptions& options,
                         const PartWeights& part_weights, SitePlans& plans);

// Takes the order of queries that share keys into `sites`, where `product` is one of their Linears and there is none
// yet.
Status order_queries_by_weights(const Node& product, const PartWeights& part_weights, TransportSites& sites);

}  // namespace onnxfold
