// A Linear of the anchor's graph with the other model's weight and bias in the anchor's neurons.
#pragma once

#include "passes/merge/received_weights.h"

namespace onnxfold {

// W'' = T_out' W' of what it receives; its outputs get the map of what it sends. Neurons on other axes than the one
// that is multiplied stay what they are. Errors: internal, when it has no partner; invalid_argument, when neurons
// cannot be carried over; those of the plans.
Status transport_linear(const Linear& linear, TransportState& state, ReceivedWeights& received);

}  // namespace onnxfold
