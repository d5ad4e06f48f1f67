// down(act(up(x))) and down(act(gate(x)) * up(x)) => the same with fewer hidden neurons.
//
// Conditions: nothing but element-wise nodes between the Linears, whose weights are constant and used once. With
// calibration data the neurons go whose loss costs the layer's output least once the down projection is solved anew
// for the rest (column_removal.h), more from layers that lose less; then the layers are refitted front to back
// on what the narrower model feeds them. Without data: by magnitude, nothing refitted. Lossy.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "analysis/algebra/column_removal.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/heal/linear_rows.h"
#include "analysis/structure/feed_forward.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/width/front_to_back.h"
#include "passes/width/removal_spread.h"

namespace onnxfold {
namespace {

constexpr double kMostOfALayer = 0.95;

struct Layer {
  FeedForward parts;
  Matrix gram;  // of the hidden values, a column of ones last when the down projection has a bias; empty: no data
  Matrix down;  // stacked with its bias likewise
  std::vector<std::int64_t> order;  // neurons, the least needed first
  std::vector<double> cost;         // relative squared error behind each removal; empty: not known
};

// Why this layer cannot be narrowed; empty when it can.
std::string obstacle(const FeedForward& layer) {
  if (layer.packed()) return "gate and up share one Linear";
  if (layer.fused_bias != nullptr) return "a fused operator adds the bias";
  if (layer.inner_norm) return "a norm stands between activation and down projection";
  std::set<const Node*> linears;
  for (const Linear* linear : {layer.gate ? &*layer.gate : nullptr, &layer.up, &layer.down}) {
    if (linear == nullptr) continue;
    if (linear->weight->uses().size() > 1) return "a weight is shared";
    for (const Node* node : linear->nodes()) linears.insert(node);
  }
  for (const Node* node : layer.nodes) {
    if (linears.count(node) != 0) continue;
    if (node->is("Reshape") || node->is("Expand") || node->is("Split") || node->is("Slice") || node->is("Concat")) {
      return fmt::format("{} '{}' fixes the width", node->op_type(), node->label());
    }
    for (const Value* input : node->inputs()) {
      if (constant(input) != nullptr && constant(input)->size() > 1) return "a constant per neuron stands between";
    }
  }
  return {};
}

Result<std::vector<double>> magnitudes(const FeedForward& layer) {
  OF_ASSIGN(const Matrix up, weight_matrix(layer.up));
  OF_ASSIGN(const Matrix down, weight_matrix(layer.down));
  Matrix gate = up;
  if (layer.gate) {
    OF_ASSIGN(gate, weight_matrix(*layer.gate));
  }
  std::vector<double> scores(static_cast<std::size_t>(layer.hidden));
  for (std::int64_t j = 0; j < layer.hidden; ++j) {
    double in = 0, out = 0;
    for (std::int64_t i = 0; i < up.rows; ++i) in += up.at(i, j) * up.at(i, j) + gate.at(i, j) * gate.at(i, j);
    for (std::int64_t i = 0; i < down.cols; ++i) out += down.at(j, i) * down.at(j, i);
    scores[static_cast<std::size_t>(j)] = std::sqrt(in * out);
  }
  return scores;
}

std::vector<std::int64_t> kept_neurons(const Layer& layer, std::int64_t gone) {
  std::vector<char> removed(static_cast<std::size_t>(layer.parts.hidden), 0);
  for (std::int64_t i = 0; i < gone; ++i)
    removed[static_cast<std::size_t>(layer.order[static_cast<std::size_t>(i)])] = 1;
  std::vector<std::int64_t> kept;
  for (std::int64_t j = 0; j < layer.parts.hidden; ++j) {
    if (removed[static_cast<std::size_t>(j)] == 0) kept.push_back(j);
  }
  return kept;
}

Status narrow_reader(Graph& graph, const Linear& linear, const std::vector<std::int64_t>& kept) {
  OF_ASSIGN(const Matrix weight, weight_matrix(linear));
  std::vector<double> bias;
  if (linear.bias != nullptr) {
    OF_ASSIGN(const std::vector<double> full, bias_vector(linear));
    for (const std::int64_t j : kept) bias.push_back(full[static_cast<std::size_t>(j)]);
  }
  OF_TRY(replace_linear(graph, linear, columns_at(weight, kept), linear.bias != nullptr ? &bias : nullptr));
  return {};
}

class PruneNeurons final : public Pass {
 public:
  explicit PruneNeurons(const PassOptions& options)
      : ratio_(options.number("ratio")),
        target_params_(options.integer("target-params")),
        multiple_(options.integer("multiple")),
        magnitude_(options.text("score") == "magnitude"),
        refit_(options.flag("refit")),
        by_error_(options.text("spread") == "error") {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph()) return false;
    OF_ASSIGN(std::vector<Layer> layers, find_layers(graph, context));
    const std::vector<std::int64_t> gone = spread(layers);
    if (std::all_of(gone.begin(), gone.end(), [](std::int64_t count) { return count == 0; })) return false;
    const std::unique_ptr<Model> student = context.model().clone();
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (gone[i] > 0) OF_TRY(narrow(student->graph(), layers[i], gone[i], context));
    }
    OF_TRY(adopt_refitted(context, *student, refit_));
    return true;
  }

 private:
  Result<std::vector<Layer>> find_layers(const Graph& graph, PassContext& context) {
    std::vector<Layer> layers;
    std::vector<std::string> hidden;
    for (const FeedForward& parts : find_feed_forwards(graph)) {
      const std::string problem = obstacle(parts);
      if (!problem.empty()) {
        context.skipped(parts.down.product->label(), problem, parts.down.weight->constant()->nbytes());
        continue;
      }
      layers.push_back({parts, {}, {}, {}, {}});
      hidden.push_back(parts.down.input->name());
    }
    OF_TRY(find_excess(graph, layers));
    std::map<std::string, ValueStatistics> statistics;
    const bool data = context.calibration != nullptr && !layers.empty();
    if (data) {
      OF_ASSIGN(statistics, collect_statistics(context.model(), *context.calibration, hidden));
    } else if (!layers.empty()) {
      context.note("", "by magnitude, nothing refitted: --calibration F.npz does much better");
    }
    for (Layer& layer : layers) {
      if (data) OF_TRY(add_moments(layer, statistics.at(layer.parts.down.input->name())));
      OF_TRY(order_neurons(layer));
    }
    return layers;
  }

  static std::int64_t parameters_of(const FeedForward& layer) {
    const std::int64_t readers = layer.gate ? 2 : 1;
    return readers * layer.up.in + layer.down.out + (layer.up.bias != nullptr ? 1 : 0) +
           (layer.gate && layer.gate->bias != nullptr ? 1 : 0);
  }

  Status find_excess(const Graph& graph, const std::vector<Layer>& layers) {
    if (target_params_ == 0) return {};
    std::int64_t mine = 0;
    for (const Layer& layer : layers) mine += layer.parts.hidden * parameters_of(layer.parts);
    excess_ = std::max<std::int64_t>(0, float_parameters(graph) - target_params_);
    if (mine > 0) ratio_ = static_cast<double>(excess_) / static_cast<double>(mine);
    if (layers.empty() || ratio_ <= kMostOfALayer) return {};
    return fail(
        Code::kInvalidArgument,
        fmt::format("target-params: {} parameters would have to go, the neurons that can have {}", excess_, mine));
  }

  static Status add_moments(Layer& layer, const ValueStatistics& statistics) {
    OF_ASSIGN(layer.down, stacked_weight(layer.parts.down));
    layer.gram = layer.parts.down.bias == nullptr ? statistics.gram : gram_with_ones(statistics);
    return {};
  }

  Status order_neurons(Layer& layer) const {
    const std::int64_t most = layer.parts.hidden - 1;
    if (magnitude_ || layer.gram.empty()) {
      OF_ASSIGN(const std::vector<double> scores, magnitudes(layer.parts));
      layer.order.resize(scores.size());
      std::iota(layer.order.begin(), layer.order.end(), 0);
      std::stable_sort(layer.order.begin(), layer.order.end(), [&](std::int64_t a, std::int64_t b) {
        return scores[static_cast<std::size_t>(a)] < scores[static_cast<std::size_t>(b)];
      });
      return {};
    }
    std::vector<std::vector<std::int64_t>> groups;
    for (std::int64_t j = 0; j < layer.parts.hidden; ++j) groups.push_back({j});
    const bool more = by_error_ || target_params_ > 0;
    const double share = more ? std::min(kMostOfALayer, 2 * ratio_ + 0.05) : ratio_;
    const auto wanted = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(layer.parts.hidden)));
    OF_ASSIGN(ColumnRemoval removal, removal_order(layer.gram, layer.down, groups, std::min(most, wanted)));
    const Matrix image = product(layer.gram, layer.down);
    double energy = 0;
    for (std::size_t i = 0; i < image.data.size(); ++i) energy += image.data[i] * layer.down.data[i];
    layer.order = std::move(removal.order);
    for (const double error : removal.error) layer.cost.push_back(energy > 0 ? error / energy : error);
    return {};
  }

  std::int64_t rounded(std::int64_t hidden, std::int64_t gone) const {
    const std::int64_t kept = (hidden - gone + multiple_ - 1) / multiple_ * multiple_;
    return std::max<std::int64_t>(0, hidden - std::max(kept, std::min(multiple_, hidden)));
  }

  // How many go in each layer: the same share, or the cheapest next step of any layer again and again.
  std::vector<std::int64_t> spread(const std::vector<Layer>& layers) const {
    std::vector<LayerParts> parts;
    bool known = by_error_;
    for (const Layer& layer : layers) {
      parts.push_back({layer.parts.hidden, layer.cost, parameters_of(layer.parts)});
      known = known && !layer.cost.empty();
    }
    if (!known) {
      for (LayerParts& layer : parts) layer.cost.clear();
    }
    if (target_params_ > 0) return removals_of_parameters(parts, excess_, multiple_);
    std::vector<std::int64_t> gone = uniform_removals(parts, ratio_);
    if (known) gone = cheapest_removals(parts, std::accumulate(gone.begin(), gone.end(), std::int64_t{0}));
    for (std::size_t i = 0; i < layers.size(); ++i) gone[i] = rounded(layers[i].parts.hidden, gone[i]);
    return gone;
  }

  Status narrow(Graph& graph, const Layer& layer, std::int64_t gone, PassContext& context) const {
    const std::vector<std::int64_t> kept = kept_neurons(layer, gone);
    const auto here = [&](const Linear& linear) {
      return *linear_at(*graph.find(linear.product->output()->name())->producer());
    };
    const std::int64_t bytes = layer.parts.up.weight->constant()->nbytes() +
                               layer.parts.down.weight->constant()->nbytes() +
                               (layer.parts.gate ? layer.parts.gate->weight->constant()->nbytes() : 0);
    OF_TRY(narrow_reader(graph, here(layer.parts.up), kept));
    if (layer.parts.gate) OF_TRY(narrow_reader(graph, here(*layer.parts.gate), kept));
    const Linear down = here(layer.parts.down);
    if (refit_ && !layer.gram.empty()) {
      std::vector<std::int64_t> rows = kept;
      if (down.bias != nullptr) rows.push_back(layer.parts.hidden);
      OF_ASSIGN(const Matrix weight, refit_kept(layer.gram, layer.down, rows));
      OF_TRY(put_stacked(graph, down, weight));
    } else {
      OF_ASSIGN(const Matrix weight, weight_matrix(down));
      OF_TRY(replace_linear(graph, down, rows_at(weight, kept), nullptr));
    }
    for (const Node* node : layer.parts.nodes)
      set_width(graph, *node, layer.parts, static_cast<std::int64_t>(kept.size()));
    const auto cost = static_cast<std::size_t>(gone - 1);
    const std::string loss =
        cost < layer.cost.size() ? fmt::format(", output error {:.2f} %", 100 * std::sqrt(layer.cost[cost])) : "";
    context.applied(layer.parts.down.product->label(),
                    fmt::format("{} of {} neurons kept{}", kept.size(), layer.parts.hidden, loss), bytes,
                    bytes * static_cast<std::int64_t>(kept.size()) / layer.parts.hidden);
    return {};
  }

  static void set_width(Graph& graph, const Node& node, const FeedForward& layer, std::int64_t width) {
    for (const Value* output : node.outputs()) {
      Value* value = output == nullptr || output == layer.down.output || output == layer.down.product->output()
                         ? nullptr
                         : graph.find(output->name());
      if (value == nullptr || !value->type().shape || value->type().shape->empty()) continue;
      Type type = value->type();
      if (type.shape->back().known() && *type.shape->back().value == layer.hidden)
        type.shape->back() = Dim{width, "", ""};
      value->set_type(std::move(type));
    }
  }

  double ratio_;  // where a number of parameters is the target: the share that this comes to
  const std::int64_t target_params_;
  std::int64_t excess_ = 0;  // parameters that must go for that
  const std::int64_t multiple_;
  const bool magnitude_, refit_, by_error_;
};

}  // namespace

std::unique_ptr<Pass> make_prune_neurons(const PassOptions& options) { return std::make_unique<PruneNeurons>(options); }

}  // namespace onnxfold
