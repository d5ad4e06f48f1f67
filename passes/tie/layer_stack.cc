#include "passes/tie/layer_stack.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

namespace onnxfold {
namespace {

// One block, taken apart.
struct Layer {
  std::vector<std::string> shape;  // what must be equal, in words
  std::vector<std::string> roles, vector_roles;
  std::vector<Linear> linears;
  std::vector<Value*> vectors;
  std::set<const Node*> known;  // products that have a role
};

void add_vector(Layer& layer, const std::string& role, Value* vector) {
  if (vector == nullptr) return;
  layer.vector_roles.push_back(role);
  layer.vectors.push_back(vector);
}

// Fused projections are one Linear of several roles, and k and v of some models share one.
void add_linear(Layer& layer, const std::string& role, const std::optional<Linear>& linear) {
  if (!linear || !layer.known.insert(linear->product).second) return;
  layer.shape.push_back(fmt::format("{} [{}, {}]", role, linear->in, linear->out));
  layer.roles.push_back(role);
  layer.linears.push_back(*linear);
  add_vector(layer, role + ".bias", linear->bias);
}

void add_norm(Layer& layer, const std::string& role, const std::optional<Norm>& norm) {
  if (!norm) return;
  layer.shape.push_back(
      fmt::format("{} {} of {}", role, norm->kind == Norm::Kind::kRms ? "RMS" : "layer norm", norm->width));
  add_vector(layer, role + ".gain", norm->gain);
  add_vector(layer, role + ".bias", norm->bias);
}

void add_attention(Layer& layer, const std::string& name, const Attention& attention) {
  layer.shape.push_back(fmt::format("{} of {} heads, {} for keys and values, {} wide{}", name, attention.heads,
                                    attention.kv_heads, attention.head_width, attention.rotary ? ", rotary" : ""));
  add_linear(layer, name + (attention.packed() ? ".qkv" : ".q"), attention.q.linear);
  add_linear(layer, name + ".k", attention.k.linear);
  add_linear(layer, name + ".v", attention.v.linear);
  add_norm(layer, name + ".q-norm", attention.q.norm);
  add_norm(layer, name + ".k-norm", attention.k.norm);
  add_norm(layer, name + ".inner-norm", attention.inner_norm);
  add_linear(layer, name + ".out", attention.out);
}

void add_feed_forward(Layer& layer, const std::string& name, const FeedForward& ffn) {
  layer.shape.push_back(fmt::format("{} of {} hidden units, {}{}", name, ffn.hidden,
                                    ffn.activation ? onnxfold::name(ffn.activation->kind) : "no activation",
                                    ffn.gated() ? ", gated" : ""));
  if (ffn.packed()) {
    add_linear(layer, name + ".gate-up", ffn.up);
  } else {
    add_linear(layer, name + ".gate", ffn.gate);
    add_linear(layer, name + ".up", ffn.up);
  }
  add_norm(layer, name + ".inner-norm", ffn.inner_norm);
  add_linear(layer, name + ".down", ffn.down);
}

std::string sublayer_name(const Sublayer& sublayer, std::map<std::string, int>& counts) {
  std::string name(onnxfold::name(sublayer.kind));
  if (sublayer.kind == Sublayer::Kind::kFeedForward) name = "ffn";
  if (sublayer.cross) name = "cross-attention";
  const int number = counts[name]++;
  return number == 0 ? name : name + std::to_string(number + 1);
}

Layer layer_of(const Block& block) {
  Layer layer;
  layer.shape.push_back(fmt::format("{} of width {}", name(block.kind), block.width));
  std::map<std::string, int> counts;
  for (const Sublayer& sublayer : block.sublayers) {
    const std::string name = sublayer_name(sublayer, counts);
    layer.shape.push_back(name);
    add_norm(layer, name + ".norm", sublayer.norm);
    if (sublayer.attention) add_attention(layer, name, *sublayer.attention);
    if (sublayer.feed_forward) add_feed_forward(layer, name, *sublayer.feed_forward);
    add_norm(layer, name + ".post-norm", sublayer.post_norm);
    add_vector(layer, name + ".scale", sublayer.layer_scale);
  }
  add_norm(layer, "final-norm", block.final_norm);
  int number = 0;
  for (Node* node : block.nodes) {
    const auto linear = linear_at(*node);
    if (linear && layer.known.count(node) == 0) add_linear(layer, fmt::format("linear{}", ++number), linear);
  }
  return layer;
}

// Empty when both are equal.
std::string difference(const Layer& first, const Layer& second) {
  for (std::size_t i = 0; i < std::max(first.shape.size(), second.shape.size()); ++i) {
    const std::string a = i < first.shape.size() ? first.shape[i] : "nothing";
    const std::string b = i < second.shape.size() ? second.shape[i] : "nothing";
    if (a != b) return fmt::format("has {} where the first one has {}", b, a);
  }
  for (std::size_t i = 0; i < first.linears.size(); ++i) {
    if (first.linears[i].weight->dtype() != second.linears[i].weight->dtype()) {
      return "has weights of another type for " + first.roles[i];
    }
  }
  return {};
}

// Vectors of equal size in the same role of all layers; others are left out.
void take_vectors(const std::vector<Layer>& layers, LayerStack& stack) {
  stack.vectors.resize(layers.size());
  for (std::size_t i = 0; i < layers[0].vector_roles.size(); ++i) {
    std::vector<Value*> row;
    for (const Layer& layer : layers) {
      const auto at = std::find(layer.vector_roles.begin(), layer.vector_roles.end(), layers[0].vector_roles[i]);
      if (at == layer.vector_roles.end()) break;
      Value* vector = layer.vectors[static_cast<std::size_t>(at - layer.vector_roles.begin())];
      const Tensor *tensor = vector->constant(), *first = layers[0].vectors[i]->constant();
      if (tensor == nullptr || first == nullptr || tensor->dims() != first->dims()) break;
      if (tensor->dtype() != first->dtype()) break;
      row.push_back(vector);
    }
    if (row.size() != layers.size()) continue;
    stack.vector_roles.push_back(layers[0].vector_roles[i]);
    for (std::size_t l = 0; l < layers.size(); ++l) stack.vectors[l].push_back(row[l]);
  }
}

}  // namespace

std::vector<LayerStack> layer_stacks(const Graph& graph, std::size_t first, std::size_t last,
                                     std::vector<StructureNote>* notes) {
  const BlockView view = find_blocks(graph);
  std::map<std::size_t, std::vector<std::size_t>> streams;
  for (std::size_t i = 0; i < view.blocks.size(); ++i) streams[view.blocks[i].stream].push_back(i);
  std::vector<LayerStack> stacks;
  const auto note = [&](std::size_t block, std::string text) {
    if (notes != nullptr) notes->push_back({fmt::format("block {}", block), std::move(text)});
  };
  for (const auto& [stream, all] : streams) {
    if (all.size() < first + last + 2) {
      note(all.front(), fmt::format("a stream of {} blocks leaves no two to tie", all.size()));
      continue;
    }
    LayerStack stack;
    stack.stream = stream;
    stack.blocks.assign(all.begin() + static_cast<std::ptrdiff_t>(first),
                        all.end() - static_cast<std::ptrdiff_t>(last));
    std::vector<Layer> layers;
    for (const std::size_t block : stack.blocks) layers.push_back(layer_of(view.blocks[block]));
    std::string problem = layers[0].linears.empty() ? "has no Linears" : "";
    std::size_t where = stack.blocks[0];
    for (std::size_t l = 1; l < layers.size() && problem.empty(); ++l) {
      problem = difference(layers[0], layers[l]);
      where = stack.blocks[l];
    }
    if (!problem.empty()) {
      note(where,
           fmt::format("{}: blocks {} to {} are not equal layers", problem, stack.blocks.front(), stack.blocks.back()));
      continue;
    }
    stack.roles = layers[0].roles;
    for (Layer& layer : layers) stack.linears.push_back(layer.linears);
    take_vectors(layers, stack);
    stacks.push_back(std::move(stack));
  }
  return stacks;
}

}  // namespace onnxfold
