// What becomes of two transport maps where a residual branch joins its stream.
#pragma once

#include <vector>

#include "ir/result.h"
#include "passes/merge/transport_maps.h"

namespace onnxfold {

enum class ResidualPolicy { kMean, kWeightedScalar, kWeightedMatrix, kNoResidual, kOnlyResidual, kIdentity };

// Mean magnitudes by channel of what the anchor computes; empty where the policy does not ask for them.
struct JoinMagnitudes {
  std::vector<double> stream, branch;
};

// Mean: (r + b) / 2. Weighted: w r + (1 - w) b with w = |stream| / (|stream| + |branch|), one for all or by channel of
// the anchor. No residual: b. Only residual: r. Identity: every neuron stays. Errors: invalid_argument, when neurons
// would have to stay and the widths differ.
Result<TransportMap> joined_map(const TransportMap& stream, const TransportMap& branch, ResidualPolicy policy,
                                const JoinMagnitudes& magnitudes);

}  // namespace onnxfold
