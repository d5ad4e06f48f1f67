// Where optimal transport makes new maps inside of attention: queries, keys and values, head by head.
#pragma once

#include "passes/merge/transport_sites.h"

namespace onnxfold {

// Are products of q, k, v and out Linears whose columns can be told?
bool understood(const Attention& attention);

// Adds sites, columns, inputs, grouped queries and kept constants for every attention of the anchor that is understood
// and stands in the model too. Errors: those of find_transport_sites.
Status add_attention_sites(const Graph& model, const Model& anchor, const Correspondence& map,
                           const std::vector<Attention>& attentions, const TransportOptions& options,
                           TransportSites& found);

}  // namespace onnxfold
