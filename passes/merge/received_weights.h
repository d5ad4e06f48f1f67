// The model's weights behind the maps of what they read, made when they are asked for.
#pragma once

#include <functional>
#include <map>
#include <utility>

#include "passes/merge/transport_state.h"

namespace onnxfold {

class ReceivedWeights {
 public:
  // Sees to it that maps have come to what a node of the anchor makes.
  using Reach = std::function<Status(const Node&)>;

  // `state` must outlive this.
  ReceivedWeights(TransportState& state, Reach reach) : state_(state), reach_(std::move(reach)) {}

  // Of the anchor's Linear: [in of the anchor, out of the model].
  Result<Matrix> of(const Linear& linear);
  // [features, neurons] of both models, the model's as received.
  Result<std::pair<Matrix, Matrix>> of(const SitePart& part);
  // Of a site: from activations, or made from weights now.
  Result<const SitePlan*> plan(std::size_t site);

 private:
  TransportState& state_;
  Reach reach_;
  std::map<const Node*, Matrix> known_;  // by product
};

}  // namespace onnxfold
