// What the branch of a residual Add computes. Internal to analysis/structure.
#pragma once

#include <map>
#include <vector>

#include "analysis/structure/blocks.h"
#include "analysis/structure/residual.h"

namespace onnxfold {

// Everything found in a graph before it is put in order.
struct Parts {
  explicit Parts(const Graph& graph);

  std::vector<StructureNote> notes;
  std::vector<Attention> attentions;
  std::vector<FeedForward> feed_forwards;
  std::vector<MixtureOfExperts> mixtures;
  std::vector<Norm> norms;
  std::map<const Value*, const Norm*> norm_of_input, norm_of_output;
  std::set<const Node*> inner;  // nodes of all of these and of activations
};

// The sublayers of a branch, in topological order; one of kind other when nothing is known of it.
std::vector<Sublayer> sublayers_of(const Residual& residual, const Parts& parts);

}  // namespace onnxfold
