// Transport plans from what neurons compute: both models on the same data, before anything is carried over.
#pragma once

#include <map>
#include <vector>

#include "passes/merge/channel_maps.h"
#include "passes/merge/transport_plans.h"

namespace onnxfold {

struct ActivationPlans {
  SitePlans plans;                                         // none for sites that weights have to tell
  std::map<const Value*, std::vector<double>> magnitudes;  // of `joins`: means by channel
};

// One walk over the data (two, where queries share keys: their order is taken into `sites` first). Without
// options.activations only the magnitudes of the anchor's values `joins` [value, axis] are measured. REQUIRES
// options.data. Errors: those of the executor and of solve_sites.
Result<ActivationPlans> activation_plans(const Model& model, const Model& anchor, const ChannelMaps& channels,
                                         const std::map<const Value*, int>& joins, TransportSites& sites,
                                         const TransportOptions& options);

}  // namespace onnxfold
