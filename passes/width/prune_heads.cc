// softmax(q k^T) v O => the same with fewer heads.
//
// Conditions: q, k, v and O are Linears (apart or packed in one; weights inside com.microsoft Attention too) whose
// columns can be told head by head; nothing outside reads an inner value; no key-value cache, since that is part of the
// signature. Query heads that share a key-value head stay or go with it; rotary pairs lie inside a head and stay
// whole. With calibration data the heads go whose loss costs the output Linear least once it is solved anew for the
// rest (column_removal.h: least squares on the kept rows, MoDeGPT's Nystrom step of arXiv 2408.09632), more from layers
// that lose less; then the layers are refitted front to back. Without data: by magnitude, nothing refitted. Lossy.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "analysis/algebra/column_removal.h"
#include "analysis/calibrate/part.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/heal/linear_rows.h"
#include "passes/pass.h"
#include "passes/width/front_to_back.h"
#include "passes/width/head_pruner.h"
#include "passes/width/removal_spread.h"

namespace onnxfold {
namespace {

struct Layer {
  std::string output;  // of the output Linear: its name
  std::string label;
  std::int64_t heads = 0, groups = 0;
  std::int64_t bytes = 0;  // of the four weights
  std::int64_t element_bytes = 4;
  Matrix gram;  // of the context, a column of ones last when the output Linear has a bias; empty: no data
  Matrix out;   // output Linear, stacked with its bias likewise
  std::vector<std::vector<std::int64_t>> rows;  // of each group
  std::vector<std::int64_t> order;              // groups, the least needed first
  std::vector<double> cost;
};

const Attention* with_output(const std::vector<Attention>& attentions, const std::string& output) {
  const auto found = std::find_if(attentions.begin(), attentions.end(), [&](const Attention& each) {
    return each.out && each.out->output->name() == output;
  });
  return found == attentions.end() ? nullptr : &*found;
}

std::int64_t bytes_of(const Attention& attention) {
  std::vector<const Value*> weights = {attention.out->weight, attention.packed_weight};
  for (const Projection* projection : {&attention.q, &attention.k, &attention.v}) {
    if (projection->linear) weights.push_back(projection->linear->weight);
  }
  std::sort(weights.begin(), weights.end());
  weights.erase(std::unique(weights.begin(), weights.end()), weights.end());
  std::int64_t bytes = 0;
  for (const Value* weight : weights) bytes += weight == nullptr ? 0 : weight->constant()->nbytes();
  return bytes;
}

std::int64_t element_bytes(const Tensor& tensor) {
  return std::max<std::int64_t>(1, tensor.nbytes() / std::max<std::int64_t>(1, tensor.size()));
}

class PruneHeads final : public Pass {
 public:
  explicit PruneHeads(const PassOptions& options)
      : ratio_(options.number("ratio")),
        target_params_(options.integer("target-params")),
        magnitude_(options.text("score") == "magnitude"),
        refit_(options.flag("refit")),
        by_error_(options.text("spread") == "error") {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph()) return false;
    OF_ASSIGN(const std::vector<Layer> layers, find_layers(graph, context));
    const std::int64_t excess = std::max<std::int64_t>(0, float_parameters(graph) - target_params_);
    OF_ASSIGN(const std::vector<std::int64_t> gone, spread(layers, excess));
    if (std::all_of(gone.begin(), gone.end(), [](std::int64_t count) { return count == 0; })) return false;
    const std::unique_ptr<Model> student = context.model().clone();
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (gone[i] > 0) OF_TRY(prune(student->graph(), layers[i], gone[i], context));
    }
    OF_TRY(adopt_refitted(context, *student, refit_));
    return true;
  }

 private:
  Result<std::vector<Layer>> find_layers(const Graph& graph, PassContext& context) {
    std::vector<Layer> layers;
    std::vector<std::string> contexts;
    const std::vector<Attention> attentions = find_attentions(graph);
    HeadPaths paths(graph);
    for (const Attention& attention : attentions) {
      const Node* node = attention.fused != nullptr ? attention.fused : attention.softmax;
      if (attention.kv_heads < 2) {
        context.skipped(node->label(), "it has one key-value head");
        continue;
      }
      std::string problem = HeadPruner(attention, paths, attention.kv_heads - 1).plan();
      if (problem.find("mask") != std::string::npos) {
        if (seen_.empty()) OF_TRY(look_at_masks(attentions, context));
        apply_seen(graph, paths);
        problem = HeadPruner(attention, paths, attention.kv_heads - 1).plan();
      }
      if (!problem.empty()) {
        context.skipped(node->label(), problem);
        continue;
      }
      Layer layer{attention.out->output->name(),
                  node->label(),
                  attention.heads,
                  attention.kv_heads,
                  bytes_of(attention),
                  element_bytes(*attention.out->weight->constant()),
                  {},
                  {},
                  {},
                  {},
                  {}};
      for (std::int64_t group = 0; group < layer.groups; ++group)
        layer.rows.push_back(HeadPruner::output_rows(attention, group));
      OF_ASSIGN(layer.out, stacked_weight(*attention.out));
      layers.push_back(std::move(layer));
      contexts.push_back(attention.out->input->name());
    }
    if (layers.empty()) return layers;
    std::map<std::string, ValueStatistics> statistics;
    if (context.calibration != nullptr) {
      OF_ASSIGN(statistics, collect_statistics(context.model(), *context.calibration, contexts));
    } else {
      context.note("", "by magnitude, nothing refitted: --calibration F.npz does much better");
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (!statistics.empty()) add_moments(layers[i], statistics.at(contexts[i]));
      OF_TRY(order_heads(layers[i], *with_output(attentions, layers[i].output)));
    }
    return layers;
  }

  // Types often do not tell whether a mask has an axis of one entry or of one for each head; runs do.
  Status look_at_masks(const std::vector<Attention>& attentions, PassContext& context) {
    std::vector<std::string> names;
    for (const Attention& attention : attentions) {
      const std::set<const Node*> inside(attention.nodes.begin(), attention.nodes.end());
      for (const Node* node : attention.nodes) {
        for (const Value* input : node->inputs()) {
          const bool outside = input != nullptr && input->constant() == nullptr && input->producer() != nullptr &&
                               inside.count(input->producer()) == 0 && input->graph() == node->graph();
          if (outside) names.push_back(input->name());
        }
      }
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    // Two sizes of batch and length: what is the same in both is no batch and no length.
    Dataset data;
    OF_ASSIGN(data, generate_dataset(context.model(), context.seed));
    auto values = record(context.model(), data, names);
    if (!values && context.calibration != nullptr) {
      data = *context.calibration;
      data.batches.resize(1);
      values = record(context.model(), data, names);
    }
    if (!values) return {};
    for (const std::string& name : names) {
      ShapeArithmetic::Extents seen;
      for (const Taps& batch : values->batches) {
        const Datum& datum = batch.at(name);
        if (!datum.is_array()) break;
        const Dims& dims = datum.array.dims();
        if (seen.empty()) seen.assign(dims.begin(), dims.end());
        if (seen.size() != dims.size()) break;
        for (std::size_t i = 0; i < dims.size(); ++i) {
          if (seen[i] != dims[i]) seen[i].reset();
        }
      }
      if (!seen.empty()) seen_[name] = std::move(seen);
    }
    return {};
  }

  void apply_seen(const Graph& graph, HeadPaths& paths) const {
    for (const auto& [name, extents] : seen_) {
      if (const Value* value = graph.find(name)) paths.numbers().refine(value, extents);
    }
  }

  // A bias is one more row of the weight, read by a column of ones.
  static void add_moments(Layer& layer, const ValueStatistics& statistics) {
    layer.gram = layer.out.rows == statistics.gram.rows ? statistics.gram : gram_with_ones(statistics);
  }

  // Magnitude: what the value columns and the output rows of a head weigh.
  static Result<std::vector<double>> magnitudes(const Layer& layer, const Attention& attention) {
    const Projection& v = attention.v;
    Matrix values;
    if (v.linear) {
      OF_ASSIGN(values, weight_matrix(*v.linear));
    } else {
      OF_ASSIGN(std::vector<double> numbers, to_doubles(*attention.packed_weight->constant()));
      const Dims& dims = attention.packed_weight->constant()->dims();
      values = Matrix(dims[0], dims[1], std::move(numbers));
    }
    std::vector<double> scores;
    for (std::int64_t group = 0; group < layer.groups; ++group) {
      double in = 0, out = 0;
      for (std::int64_t row = 0; row < values.rows; ++row) {
        for (std::int64_t d = 0; d < v.width; ++d)
          in += std::pow(values.at(row, v.offset + group * v.head_stride + d * v.element_stride), 2);
      }
      for (const std::int64_t row : layer.rows[static_cast<std::size_t>(group)]) {
        for (std::int64_t col = 0; col < layer.out.cols; ++col) out += layer.out.at(row, col) * layer.out.at(row, col);
      }
      scores.push_back(std::sqrt(in * out));
    }
    return scores;
  }

  Status order_heads(Layer& layer, const Attention& attention) const {
    if (magnitude_ || layer.gram.empty()) {
      OF_ASSIGN(const std::vector<double> scores, magnitudes(layer, attention));
      layer.order.resize(scores.size());
      std::iota(layer.order.begin(), layer.order.end(), 0);
      std::stable_sort(layer.order.begin(), layer.order.end(), [&](std::int64_t a, std::int64_t b) {
        return scores[static_cast<std::size_t>(a)] < scores[static_cast<std::size_t>(b)];
      });
      return {};
    }
    OF_ASSIGN(ColumnRemoval removal, removal_order(layer.gram, layer.out, layer.rows, layer.groups - 1));
    const Matrix image = product(layer.gram, layer.out);
    const double energy = std::inner_product(image.data.begin(), image.data.end(), layer.out.data.begin(), 0.0);
    layer.order = std::move(removal.order);
    for (const double error : removal.error) layer.cost.push_back(energy > 0 ? error / energy : error);
    return {};
  }

  // `excess`: parameters that must go where the target is their number.
  Result<std::vector<std::int64_t>> spread(const std::vector<Layer>& layers, std::int64_t excess) const {
    std::vector<LayerParts> parts;
    double all = 0;
    std::int64_t most = 0;
    bool known = by_error_;
    for (const Layer& layer : layers) {
      const std::int64_t each = layer.bytes / layer.element_bytes / layer.groups;
      parts.push_back({layer.groups, layer.cost, each});
      all += static_cast<double>(layer.groups);
      most += (layer.groups - 1) * each;
      known = known && !layer.cost.empty();
    }
    if (target_params_ > 0 && !layers.empty()) {
      if (excess > most) {
        return fail(
            Code::kInvalidArgument,
            fmt::format("target-params: {} parameters would have to go, the heads that can have {}", excess, most));
      }
      for (LayerParts& layer : parts) {
        if (!known) layer.cost.clear();
      }
      return removals_of_parameters(parts, excess);
    }
    std::vector<std::int64_t> gone = known ? cheapest_removals(parts, static_cast<std::int64_t>(ratio_ * all + 1e-9))
                                           : uniform_removals(parts, ratio_);
    for (std::size_t i = 0; i < layers.size(); ++i) gone[i] = std::min(gone[i], layers[i].groups - 1);
    return gone;
  }

  Status prune(Graph& graph, const Layer& layer, std::int64_t gone, PassContext& context) const {
    const std::vector<Attention> attentions = find_attentions(graph);
    const Attention* attention = with_output(attentions, layer.output);
    if (attention == nullptr) return fail(Code::kInternal, fmt::format("attention '{}' is gone", layer.label));
    std::vector<std::int64_t> kept(layer.order.begin() + std::min<std::ptrdiff_t>(gone, std::ssize(layer.order)),
                                   layer.order.end());
    // The last of an order that was cut short are those that it does not name.
    for (std::int64_t group = 0; group < layer.groups; ++group) {
      if (std::find(layer.order.begin(), layer.order.end(), group) == layer.order.end()) kept.push_back(group);
    }
    std::sort(kept.begin(), kept.end());
    HeadPaths paths(graph);
    apply_seen(graph, paths);
    HeadPruner pruner(*attention, paths, static_cast<std::int64_t>(kept.size()));
    if (const std::string why = pruner.plan(); !why.empty()) {
      context.skipped(layer.label, why);
      return {};
    }
    OF_TRY(pruner.apply(graph, kept));
    if (refit_ && !layer.gram.empty()) OF_TRY(refit(graph, layer, kept));
    const auto cost = static_cast<std::size_t>(gone - 1);
    const std::string loss =
        cost < layer.cost.size() ? fmt::format(", output error {:.2f} %", 100 * std::sqrt(layer.cost[cost])) : "";
    const auto left = static_cast<std::int64_t>(kept.size());
    context.applied(layer.label,
                    fmt::format("{} of {} heads kept{}", layer.heads / layer.groups * left, layer.heads, loss),
                    layer.bytes, layer.bytes * left / layer.groups);
    return {};
  }

  // The output Linear, for the heads that are left.
  static Status refit(Graph& graph, const Layer& layer, const std::vector<std::int64_t>& kept) {
    std::vector<std::int64_t> rows;
    for (const std::int64_t group : kept) {
      const auto& mine = layer.rows[static_cast<std::size_t>(group)];
      rows.insert(rows.end(), mine.begin(), mine.end());
    }
    const auto linear = linear_making(graph.find(layer.output));
    if (!linear) return fail(Code::kInternal, fmt::format("the output of '{}' is gone", layer.label));
    if (linear->bias != nullptr) rows.push_back(layer.gram.rows - 1);
    OF_ASSIGN(const Matrix weight, refit_kept(layer.gram, layer.out, rows));
    return put_stacked(graph, *linear, weight);
  }

  const double ratio_;
  const std::int64_t target_params_;
  const bool magnitude_, refit_, by_error_;
  std::map<std::string, ShapeArithmetic::Extents> seen_;  // dimensions that do not change from run to run
};

}  // namespace

std::unique_ptr<Pass> make_prune_heads(const PassOptions& options) { return std::make_unique<PruneHeads>(options); }

}  // namespace onnxfold
