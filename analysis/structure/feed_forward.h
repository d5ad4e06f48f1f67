// FeedForward: down(act(up(x))) or down(act(gate(x)) * up(x)), whatever its spelling; and mixtures of experts.
//
// Found from the down Linear backwards. The hidden value may pass Dropout, Cast, Reshape or a norm; gate and up may be
// two Linears of the same input or halves of one (Split or Slice on the last axis). Width in and out must agree, which
// keeps classifier heads and bottlenecks of other kinds apart; nothing else may read a value inside.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis/structure/activation.h"
#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"
#include "analysis/structure/note.h"

namespace onnxfold {

struct FeedForward {
  std::optional<Linear> gate;  // gated only
  Linear up, down;
  // Gate and up share one Linear when packed(): columns [gate_offset, gate_offset + hidden) and the same for up.
  std::int64_t gate_offset = 0, up_offset = 0, hidden = 0;
  std::optional<ActivationMatch> activation;  // none: a bilinear gate
  Node* fused_bias =
      nullptr;              // BiasGelu or FastGelu that adds up's bias itself, or FusedGemm that is up and activation
  Node* product = nullptr;  // the Mul of a gated one
  std::optional<Norm> inner_norm;  // between the hidden value and down
  Value* input = nullptr;          // read by up (and gate)
  Value* output = nullptr;         // of down
  std::vector<Node*> nodes;        // in topological order, Linears included

  bool gated() const { return product != nullptr; }
  bool packed() const { return gate && gate->product == up.product; }
  std::int64_t width() const { return up.in; }
};

// A router that picks experts: Linear, Softmax or Sigmoid, TopK. Recognised so that nobody takes its experts for plain
// feed-forward layers.
struct MixtureOfExperts {
  Node* router = nullptr;                // the Linear's product, or the fused operator (com.microsoft MoE, QMoE)
  Node* selection = nullptr;             // the TopK, or the fused operator
  Value* input = nullptr;                // read by the router
  std::int64_t experts = 0, chosen = 0;  // 0: not known
};

// All of a graph, in topological order of their down Linears.
std::vector<FeedForward> find_feed_forwards(const Graph& graph);
std::vector<MixtureOfExperts> find_mixtures(const Graph& graph);

}  // namespace onnxfold
