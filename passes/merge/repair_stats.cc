#include <algorithm>
#include <cmath>

#include "analysis/calibrate/statistics.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/linear.h"
#include "ir/dead_nodes.h"
#include "passes/merge/repair.h"

namespace onnxfold {
namespace {

// Mean and deviation of every channel.
struct ChannelStatistics {
  std::vector<double> mean, deviation;
};

ChannelStatistics statistics_of(const Moments& moments) {
  ChannelStatistics result{moments.mean(), {}};
  const double rows = static_cast<double>(std::max<std::int64_t>(moments.rows, 1));
  for (std::size_t i = 0; i < result.mean.size(); ++i) {
    result.deviation.push_back(
        std::sqrt(std::max(moments.sum_squares[i] / rows - result.mean[i] * result.mean[i], 0.0)));
  }
  return result;
}

// One value of a model, with nothing run that comes after it.
Result<ChannelStatistics> channels_of(const Model& model, const std::string& value, int axis, const Dataset& data) {
  const std::unique_ptr<Model> copy = model.clone();
  Graph& graph = copy->graph();
  while (!graph.outputs().empty()) graph.remove_output(graph.outputs().size() - 1);
  graph.add_output(*graph.find(value));
  erase_dead_nodes(graph);
  graph.purge();
  Moments moments;
  OF_TRY(for_each_batch(*copy, data, {value}, [&](std::size_t, const Taps& taps, const RowMask& mask) -> Status {
    OF_ASSIGN(const Matrix rows, rows_of(taps.at(value), mask, axis));
    moments.add(rows);
    return {};
  }));
  return statistics_of(moments);
}

// Where every parent has the merged model's Linears, and what they give there, in the mean.
class Targets {
 public:
  Status collect(const Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                 const std::vector<double>& weights, const std::vector<std::string>& outputs) {
    double total = 0;
    for (const double weight : weights) total += weight;
    for (std::size_t p = 0; p < parents.size(); ++p) {
      OF_ASSIGN(const Correspondence map, correspond(parents[p]->graph(), merged.graph()));
      std::vector<std::string> names;
      for (const std::string& output : outputs) names.push_back(map.first_of.at(merged.graph().find(output))->name());
      OF_ASSIGN(const auto statistics, collect_statistics(*parents[p], data, names, false));
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        add(found_[outputs[i]], statistics_of(statistics.at(names[i]).moments), weights[p] / total);
      }
    }
    return {};
  }
  const ChannelStatistics& of(const std::string& output) const { return found_.at(output); }

 private:
  static void add(ChannelStatistics& target, const ChannelStatistics& own, double share) {
    target.mean.resize(own.mean.size());
    target.deviation.resize(own.mean.size());
    for (std::size_t i = 0; i < own.mean.size(); ++i) {
      target.mean[i] += share * own.mean[i];
      target.deviation[i] += share * own.deviation[i];
    }
  }
  std::map<std::string, ChannelStatistics> found_;
};

Status rescale(Model& merged, const std::string& output, const ChannelStatistics& target, const Dataset& data) {
  OF_ASSIGN(const ChannelStatistics now, channels_of(merged, output, -1, data));
  const auto linear = linear_making(merged.graph().find(output));
  OF_ASSIGN(Matrix weight, weight_matrix(*linear));
  OF_ASSIGN(std::vector<double> bias, bias_vector(*linear));
  for (std::int64_t j = 0; j < weight.cols; ++j) {
    const auto at = static_cast<std::size_t>(j);
    const double factor = now.deviation[at] > 0 ? target.deviation[at] / now.deviation[at] : 1;
    for (std::int64_t i = 0; i < weight.rows; ++i) weight.at(i, j) *= factor;
    bias[at] = target.mean[at] + factor * (bias[at] - now.mean[at]);
  }
  const auto replaced = replace_linear(merged.graph(), *linear, weight, linear->bias == nullptr ? nullptr : &bias);
  return replaced ? Status() : fail(replaced.error());
}

}  // namespace

Result<int> repair_stats(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                         const RepairOptions& options) {
  std::vector<std::string> outputs;
  for (const Linear& linear : find_linears(merged.graph())) {
    const bool own = linear.weight->uses().size() == 1 && linear.weight_transpose == nullptr;
    if (own && (linear.bias == nullptr || linear.bias->uses().size() == 1)) outputs.push_back(linear.output->name());
  }
  Targets targets;
  OF_TRY(targets.collect(merged, parents, data, options.weights, outputs));
  for (const std::string& output : outputs) OF_TRY(rescale(merged, output, targets.of(output), data));
  return static_cast<int>(outputs.size());
}

Result<int> recompute_batch_statistics(Model& model, const Dataset& data) {
  std::vector<std::string> outputs;
  for (const Node* node : model.graph().nodes()) {
    const bool plain = node->is("BatchNormalization") && node->inputs().size() == 5 &&
                       parameter(node->input(3)) != nullptr && parameter(node->input(4)) != nullptr;
    if (plain && node->input(3)->uses().size() == 1 && node->input(4)->uses().size() == 1) {
      outputs.push_back(node->output()->name());
    }
  }
  for (const std::string& output : outputs) {
    const Node& node = *model.graph().find(output)->producer();
    OF_ASSIGN(const ChannelStatistics now, channels_of(model, node.input(0)->name(), 1, data));
    for (const int slot : {3, 4}) {
      Value& constant = *node.input(static_cast<std::size_t>(slot));
      std::vector<double> numbers = slot == 3 ? now.mean : now.deviation;
      for (double& x : numbers) x = slot == 3 ? x : x * x;
      OF_ASSIGN(Tensor tensor, from_doubles(constant.dtype(), parameter(&constant)->dims(), numbers));
      replace_constant(constant, std::move(tensor));
    }
  }
  return static_cast<int>(outputs.size());
}

}  // namespace onnxfold
