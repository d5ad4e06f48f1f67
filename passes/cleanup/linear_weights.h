// Conv, ConvTranspose, Gemm and MatMul with constant weights, seen as y[c] = W[c] x + b[c] per output channel c.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "ir/result.h"

namespace onnxfold {

struct ChannelLinear {
  Node* node = nullptr;
  const Tensor* weight = nullptr;
  std::int64_t channels = 0;
  int channel_axis = 1;       // of the output; -1: the last
  std::optional<int> rank;    // of the output
  bool has_bias_slot = true;  // false: MatMul
};

// `value` as the output of such a node: floating weights that only this node reads, an output that only one node reads,
// and a bias that is constant with one element per channel (or absent). Otherwise nullopt, with the reason in `why`
// when the node is one of the four.
std::optional<ChannelLinear> channel_linear(const Value* value, std::string& why);

// The elements of a constant that broadcasts along the output channels only: one for each, or one for all (repeated).
// Nullopt when it is not constant, not floating, or varies along another axis, or would widen the result.
std::optional<std::vector<double>> per_channel(const Value* value, const ChannelLinear& linear);

// W[c] * scale[c], computed in double and rounded once to W's type.
Result<Tensor> scaled_weight(const ChannelLinear& linear, const std::vector<double>& scale);
// The bias as it enters the sum: Gemm's beta applied, zeros when there is none.
Result<std::vector<double>> bias_of(const ChannelLinear& linear);

// Makes `weight` (when defined) and `bias` (when not empty) those of the node. REQUIRES: a bias only with
// has_bias_slot.
void set_weight_and_bias(Graph& graph, const ChannelLinear& linear, const Tensor& weight,
                         const std::optional<Tensor>& bias);
// `values` as a bias tensor of the weight's type.
Result<Tensor> bias_tensor(const ChannelLinear& linear, const std::vector<double>& values);

}  // namespace onnxfold
