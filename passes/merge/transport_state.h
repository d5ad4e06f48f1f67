// What is known while a model is carried over: every step reads it, and adds maps, plans or weights.
#pragma once

#include "passes/merge/aligned_weights.h"
#include "passes/merge/channel_maps.h"
#include "passes/merge/transport_plans.h"

namespace onnxfold {

struct TransportState {
  const TransportOptions& options;
  Correspondence partners;  // first: the model that is carried over; second: the anchor
  TransportSites sites;
  SitePlans plans;         // of sites
  ChannelMaps maps;        // of the anchor's values, up to where the walk is
  AlignedWeights weights;  // in the anchor's neurons, up to where the walk is
};

}  // namespace onnxfold
