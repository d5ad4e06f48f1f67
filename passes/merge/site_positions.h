// Sites whose neurons reach the outputs at one position only.
#pragma once

#include "passes/merge/transport_sites.h"

namespace onnxfold {

// Sets SitePart::position where values that a part makes are followed to the place where one position is taken out of
// many (the class token before the head). `attentions`: of the anchor. REQUIRES its types.
void find_positions(const std::vector<Attention>& attentions, std::vector<TransportSite>& sites);

}  // namespace onnxfold
