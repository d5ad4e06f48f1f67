// Layer2(act(Layer1(x))) => Layer2'(act(Layer1'(x))): channels between two layers get weights of equal range on both
// sides (cross-layer equalization, Nagel et al. 2019, arXiv 1906.04721).
//
// s_i = sqrt(r1_i / r2_i) with r1_i the largest weight that makes channel i and r2_i the largest that reads it; weights
// and bias that make it are divided by s_i, weights that read it multiplied, over all pairs in turn until nothing
// moves. Conditions: Conv (grouped and depthwise too), Gemm and MatMul with constant weights of their own; between them
// only what commutes with a positive factor a channel: nothing, Relu, LeakyRelu, pooling, Identity, Flatten before a
// Gemm or MatMul; nothing else reads a value between. Data-free; for 8 bits with one scale a tensor or an axis.
// Rounding.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "analysis/structure/linear.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr int kRounds = 40;
constexpr double kSettled = 1e-3;  // largest |log s| that is left alone
constexpr double kFarthest = 1e4;

struct Layer {
  Node* node = nullptr;
  Value* weight = nullptr;
  Node* bias_node = nullptr;  // null: no bias
  std::size_t bias_slot = 0;
  Value* output = nullptr;  // bias included
  std::int64_t in = 0, out = 0;
  bool convolution = false, out_in = true;
  std::int64_t per_group = 0, kernel = 1, groups = 1;  // of convolutions: inputs a group

  std::int64_t out_of(std::int64_t i) const {
    if (convolution) return i / kernel / per_group;
    return out_in ? i / in : i % out;
  }
  std::int64_t in_of(std::int64_t i) const {
    if (!convolution) return out_in ? i % in : i / out;
    const std::int64_t group = out_of(i) / (out / groups);
    return group * per_group + i / kernel % per_group;
  }
};

bool owned(const Value* value) { return value == nullptr || (constant(value) != nullptr && value->uses().size() == 1); }

std::optional<Layer> convolution_at(Node& node) {
  const Tensor* weight = constant(node.input(1));
  if (weight == nullptr || weight->rank() < 3 || !is_float(weight->dtype()) || weight->size() == 0) return {};
  if (!owned(node.input(1)) || !owned(node.input(2))) return {};
  Layer layer;
  layer.node = &node;
  layer.weight = node.input(1);
  layer.output = node.output();
  layer.convolution = true;
  layer.groups = node.attr_int("group", 1);
  layer.out = weight->dims()[0];
  layer.per_group = weight->dims()[1];
  layer.kernel = weight->size() / (layer.out * layer.per_group);
  if (layer.groups <= 0 || layer.out % layer.groups != 0) return {};
  layer.in = layer.per_group * layer.groups;
  if (node.input(2) != nullptr) {
    layer.bias_node = &node;
    layer.bias_slot = 2;
  }
  return layer;
}

std::optional<Layer> linear_layer_at(Node& node) {
  if (!node.domain().empty()) return {};
  const auto linear = linear_at(node);
  if (!linear || linear->weight != node.input(1) || !owned(linear->weight) || !owned(linear->bias)) return {};
  if (linear->bias == nullptr && node.input(2) != nullptr) return {};
  Layer layer;
  layer.node = &node;
  layer.weight = linear->weight;
  layer.output = linear->output;
  layer.in = linear->in;
  layer.out = linear->out;
  layer.out_in = linear->stored_out_in;
  if (linear->bias == nullptr) return layer;
  layer.bias_node = linear->bias_add != nullptr ? linear->bias_add : &node;
  layer.bias_slot = linear->bias_add == nullptr ? 2 : linear->bias_add->input(0) == node.output() ? 1 : 0;
  // A bias that broadcasts in another way than one number a channel.
  if (layer.bias_node->input(layer.bias_slot) != linear->bias || constant(linear->bias)->size() != layer.out) return {};
  return layer;
}

std::optional<Layer> layer_at(Node& node) {
  if (node.is("Conv")) return convolution_at(node);
  if (node.is("MatMul") || node.is("Gemm")) return linear_layer_at(node);
  return {};
}

struct Pair {
  Layer first, second;
  std::int64_t spread = 1;  // inputs of the second a channel of the first (Flatten)
};

bool is_pooling(const Node& node) {
  return node.is("MaxPool") || node.is("AveragePool") || node.is("GlobalAveragePool") || node.is("GlobalMaxPool");
}

bool flattens(const Node& node) {
  const auto from = node.input(0)->rank(), to = node.output()->rank();
  if (node.is("Flatten")) return node.attr_int("axis", 1) == 1;
  if (!node.is("Reshape") || !from || to != 2 || *from < 3) return false;
  const auto before = node.input(0)->type().shape, after = node.output()->type().shape;
  // [N, C, ...] to [N, C * ...]: the channels' axis is merged with all behind it.
  std::int64_t product = 1;
  for (std::size_t i = 1; i < before->size(); ++i) {
    if (!(*before)[i].known()) return false;
    product *= *(*before)[i].value;
  }
  return (*after)[1].known() && *(*after)[1].value == product;
}

// Follows what commutes with positive factors from `first` to another layer.
std::optional<Pair> pair_from(const Layer& first, std::string& why) {
  const Value* value = first.output;
  bool flat = false;
  for (int step = 0; step < 8; ++step) {
    Node* next = sole_consumer(value);
    if (next == nullptr) return {};
    if (next->input(0) == value) {
      if (auto second = layer_at(*next)) {
        Pair pair{first, *second, 1};
        if (first.convolution == second->convolution && !flat && first.out == second->in) return pair;
        if (first.convolution && !second->convolution && flat && second->in % first.out == 0) {
          pair.spread = second->in / first.out;
          return pair;
        }
        return {};
      }
    }
    const bool passes = next->is("Relu") || next->is("LeakyRelu") || next->is("Identity") ||
                        (first.convolution && !flat && is_pooling(*next));
    if (!passes && first.convolution && !flat && flattens(*next)) {
      flat = true;
    } else if (!passes) {
      why = fmt::format("{} stands between it and the next layer", next->op_type());
      return {};
    }
    if (next->outputs().size() > 1) return {};
    value = next->output();
  }
  return {};
}

class Equalize final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    std::vector<Pair> pairs;
    for (Node* node : graph.nodes()) {
      const auto layer = layer_at(*node);
      if (!layer || node->graph() != layer->weight->graph()) continue;
      std::string why;
      if (auto pair = pair_from(*layer, why)) {
        pairs.push_back(std::move(*pair));
      } else if (!why.empty()) {
        context.skipped(node->label(), why);
      }
    }
    if (pairs.empty()) return false;
    OF_TRY(load(pairs));
    factors_.assign(pairs.size(), {});
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      factors_[i].assign(static_cast<std::size_t>(pairs[i].first.out), 0.0);
    }
    for (int round = 0; round < kRounds; ++round) {
      double most = 0;
      for (std::size_t i = 0; i < pairs.size(); ++i) most = std::max(most, balance(pairs[i], factors_[i]));
      if (most < kSettled) break;
    }
    return store(graph, pairs, context);
  }

 private:
  Status load(const std::vector<Pair>& pairs) {
    for (const Pair& pair : pairs) {
      for (const Layer* layer : {&pair.first, &pair.second}) {
        if (numbers_.contains(layer->weight)) continue;
        OF_ASSIGN(numbers_[layer->weight], to_doubles(*constant(layer->weight)));
      }
    }
    return {};
  }

  // One step on one pair; the largest |log s|. `total` sums the logarithms.
  double balance(const Pair& pair, std::vector<double>& total) {
    std::vector<double>&made = numbers_.at(pair.first.weight), &read = numbers_.at(pair.second.weight);
    std::vector<double> one(total.size()), two(total.size());
    for (std::size_t i = 0; i < made.size(); ++i) {
      double& most = one[static_cast<std::size_t>(pair.first.out_of(static_cast<std::int64_t>(i)))];
      most = std::max(most, std::fabs(made[i]));
    }
    for (std::size_t i = 0; i < read.size(); ++i) {
      double& most = two[static_cast<std::size_t>(pair.second.in_of(static_cast<std::int64_t>(i)) / pair.spread)];
      most = std::max(most, std::fabs(read[i]));
    }
    std::vector<double> factors(total.size(), 1.0);
    double largest = 0;
    for (std::size_t c = 0; c < factors.size(); ++c) {
      if (!(one[c] > 0) || !(two[c] > 0) || !std::isfinite(one[c]) || !std::isfinite(two[c])) continue;
      factors[c] = std::clamp(std::sqrt(one[c] / two[c]), 1 / kFarthest, kFarthest);
      largest = std::max(largest, std::fabs(std::log(factors[c])));
    }
    if (largest < kSettled) return largest;
    for (std::size_t i = 0; i < made.size(); ++i) {
      made[i] /= factors[static_cast<std::size_t>(pair.first.out_of(static_cast<std::int64_t>(i)))];
    }
    for (std::size_t i = 0; i < read.size(); ++i) {
      read[i] *= factors[static_cast<std::size_t>(pair.second.in_of(static_cast<std::int64_t>(i)) / pair.spread)];
    }
    for (std::size_t c = 0; c < factors.size(); ++c) total[c] += std::log(factors[c]);
    return largest;
  }

  Result<bool> store(Graph& graph, const std::vector<Pair>& pairs, PassContext& context) {
    std::map<const Value*, bool> moved;
    bool any = false;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const bool here = std::any_of(factors_[i].begin(), factors_[i].end(), [](double s) { return s != 0; });
      if (!here) continue;
      any = true;
      moved[pairs[i].first.weight] = moved[pairs[i].second.weight] = true;
      OF_TRY(divide_bias(graph, pairs[i].first, factors_[i]));
      const auto [low, high] = std::minmax_element(factors_[i].begin(), factors_[i].end());
      context.note(pairs[i].first.node->label(),
                   fmt::format("equalized with {}: factors {:.3g} to {:.3g}", pairs[i].second.node->label(),
                               std::exp(*low), std::exp(*high)));
    }
    for (const Pair& pair : pairs) {
      for (const Layer* layer : {&pair.first, &pair.second}) {
        Value* weight = layer->node->input(1);
        if (!moved.contains(weight)) continue;
        const Tensor& old = *constant(weight);
        OF_ASSIGN(Tensor made, from_doubles(old.dtype(), old.dims(), numbers_.at(weight)));
        graph.set_input(*layer->node, 1, add_constant(graph, std::move(made), weight->name()));
        erase_if_unused(graph, *weight);
      }
    }
    return any;
  }

  static Status divide_bias(Graph& graph, const Layer& layer, const std::vector<double>& logs) {
    if (layer.bias_node == nullptr) return {};
    Value* bias = layer.bias_node->input(layer.bias_slot);
    const Tensor& old = *constant(bias);
    OF_ASSIGN(std::vector<double> numbers, to_doubles(old));
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] /= std::exp(logs[i % logs.size()]);
    OF_ASSIGN(Tensor made, from_doubles(old.dtype(), old.dims(), numbers));
    graph.set_input(*layer.bias_node, layer.bias_slot, add_constant(graph, std::move(made), bias->name()));
    erase_if_unused(graph, *bias);
    return {};
  }

  std::map<const Value*, std::vector<double>> numbers_;  // looked up only
  std::vector<std::vector<double>> factors_;             // logarithms, by pair
};

}  // namespace

std::unique_ptr<Pass> make_equalize(const PassOptions&) { return std::make_unique<Equalize>(); }

}  // namespace onnxfold
