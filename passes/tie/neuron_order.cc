#include "passes/tie/neuron_order.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "analysis/depth/linearity.h"

namespace onnxfold {
namespace {

struct Place {
  Value* constant = nullptr;
  int axis = 0;
};

// The constants of a feed-forward layer that hold its neurons: up, gate and down, then biases.
struct Neurons {
  std::vector<Place> weights, biases;
};

bool only_reader(const Value* value) { return value->uses().size() == 1 && value->uses().front().node != nullptr; }

std::optional<Neurons> neurons_of(const Sublayer& sublayer) {
  if (!sublayer.feed_forward) return {};
  const FeedForward& layer = *sublayer.feed_forward;
  if (layer.packed() || layer.inner_norm || layer.fused_bias != nullptr) return {};
  Neurons neurons;
  const auto add_up = [&](const Linear& linear) {
    neurons.weights.push_back({linear.weight, linear.stored_out_in ? 0 : 1});
    if (linear.bias != nullptr) neurons.biases.push_back({linear.bias, linear.bias->constant()->rank() - 1});
  };
  add_up(layer.up);
  if (layer.gate) add_up(*layer.gate);
  neurons.weights.push_back({layer.down.weight, layer.down.stored_out_in ? 1 : 0});
  for (const auto* places : {&neurons.weights, &neurons.biases}) {
    for (const Place& place : *places) {
      if (!only_reader(place.constant)) return {};
    }
  }
  return neurons;
}

// new[.., i, ..] = old[.., order[i], ..].
Result<Tensor> reordered(const Tensor& tensor, int axis, const std::vector<std::int64_t>& order) {
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  const Dims& dims = tensor.dims();
  const auto outer = static_cast<std::size_t>(
      std::accumulate(dims.begin(), dims.begin() + axis, std::int64_t{1}, std::multiplies<>()));
  const std::size_t run = bytes.size() / std::max<std::size_t>(1, outer * order.size());
  Buffer out(bytes.size());
  for (std::size_t o = 0; o < outer; ++o) {
    for (std::size_t i = 0; i < order.size(); ++i) {
      const std::size_t from = (o * order.size() + static_cast<std::size_t>(order[i])) * run;
      std::copy_n(bytes.data() + from, run, out.data() + (o * order.size() + i) * run);
    }
  }
  return Tensor::owned(tensor.dtype(), dims, std::move(out));
}

Status reorder(Graph& graph, const Place& place, const std::vector<std::int64_t>& order) {
  OF_ASSIGN(Tensor tensor, reordered(*place.constant->constant(), place.axis, order));
  const Use use = place.constant->uses().front();
  graph.set_input(*use.node, static_cast<std::size_t>(use.index),
                  graph.add_initializer(place.constant->name(), std::move(tensor)));
  if (place.constant->producer() != nullptr) {
    graph.erase(*place.constant->producer());
  } else if (!place.constant->is_graph_input()) {
    graph.erase(*place.constant);
  }
  return {};
}

// Of the sublayer at `index` of each block; none when one of them does not fit.
std::optional<std::vector<Neurons>> layers_at(const BlockView& view, const std::vector<std::size_t>& blocks,
                                              std::size_t index) {
  std::vector<Neurons> layers;
  for (const std::size_t block : blocks) {
    if (index >= view.blocks[block].sublayers.size()) return {};
    auto neurons = neurons_of(view.blocks[block].sublayers[index]);
    if (!neurons || (!layers.empty() && neurons->weights.size() != layers[0].weights.size())) return {};
    layers.push_back(std::move(*neurons));
  }
  return layers;
}

std::vector<DepthFamily> families_of(const std::vector<Neurons>& layers, const std::vector<std::size_t>& blocks) {
  std::vector<DepthFamily> families;
  for (std::size_t place = 0; place < layers[0].weights.size(); ++place) {
    DepthFamily family;
    family.role = std::to_string(place);
    family.blocks = blocks;
    family.neurons = layers[0].weights[place].axis;
    for (const Neurons& layer : layers) family.weights.push_back(layer.weights[place].constant);
    families.push_back(std::move(family));
  }
  return families;
}

bool same_dimensions(const std::vector<DepthFamily>& families) {
  return std::all_of(families.begin(), families.end(), [](const DepthFamily& family) {
    return std::all_of(family.weights.begin(), family.weights.end(), [&](const Value* weight) {
      return weight->constant()->dims() == family.weights[0]->constant()->dims();
    });
  });
}

}  // namespace

Result<int> align_neurons(Graph& graph, const std::vector<std::size_t>& blocks) {
  const BlockView view = find_blocks(graph);
  int count = 0;
  for (std::size_t index = 0; index < view.blocks[blocks[0]].sublayers.size(); ++index) {
    const auto layers = layers_at(view, blocks, index);
    if (!layers) continue;
    const std::vector<DepthFamily> families = families_of(*layers, blocks);
    if (!same_dimensions(families)) continue;
    OF_ASSIGN(const auto orders, neuron_orders(families));
    for (std::size_t l = 0; l < layers->size(); ++l) {
      if (std::is_sorted(orders[l].begin(), orders[l].end())) continue;
      for (const Place& place : (*layers)[l].weights) OF_TRY(reorder(graph, place, orders[l]));
      for (const Place& place : (*layers)[l].biases) OF_TRY(reorder(graph, place, orders[l]));
      ++count;
    }
  }
  return count;
}

}  // namespace onnxfold
