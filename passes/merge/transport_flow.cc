#include "passes/merge/transport_flow.h"

#include <set>

#include "analysis/structure/norm.h"
#include "passes/merge/activation_plans.h"
#include "passes/merge/alignment.h"
#include "passes/merge/linear_transport.h"
#include "passes/merge/map_passing.h"

namespace onnxfold {
namespace {

// A convolution whose own channels stay where they are: those of its input may have moved.
bool reads_all_channels(const Node& node) {
  return node.is("Conv") && node.attr_int("group", 1) == 1 && node.input(1) != nullptr &&
         parameter(node.input(1)) != nullptr;
}

// What the walk takes as a whole.
struct WholeParts {
  std::vector<Norm> norms;
  std::map<const Node*, const Norm*> norm_of;  // by last node
  std::set<const Node*> inner;                 // of norms and attention, but for Linears

  WholeParts(const Graph& anchor, const std::vector<Attention>& attentions) : norms(find_norms(anchor)) {
    for (const Norm& norm : norms) {
      inner.insert(norm.nodes.begin(), norm.nodes.end());
      norm_of[norm.last()] = &norm;
    }
    for (const Attention& attention : attentions) {
      for (const Node* node : attention.nodes) {
        if (!linear_at(*node)) inner.insert(node);
      }
    }
  }
};

class Flow {
 public:
  Flow(const Graph& anchor, const WholeParts& parts, const ResidualJoins& joins, TransportState& state)
      : anchor_(anchor),
        parts_(parts),
        joins_(joins),
        state_(state),
        received_(state, [this](const Node& node) { return visit(node); }),
        passing_(state, joins) {}

  Status walk() {
    for (const Node* node : anchor_.nodes()) OF_TRY(visit(*node));
    return {};
  }
  std::vector<MergeLayer>& tables() { return passing_.tables(); }

 private:
  Status visit(const Node& node) {
    if (!visited_.insert(&node).second) return {};
    for (const Value* input : node.inputs()) {
      if (input != nullptr && input->producer() != nullptr && input->graph() == node.graph()) {
        OF_TRY(visit(*input->producer()));
      }
    }
    if (const auto norm = parts_.norm_of.find(&node); norm != parts_.norm_of.end()) return visit_norm(*norm->second);
    if (biases_.count(&node) != 0 || parts_.inner.count(&node) != 0) return {};
    if (const auto linear = linear_at(node)) {
      if (linear->bias_add != nullptr) biases_.insert(linear->bias_add);
      return transport_linear(*linear, state_, received_);
    }
    const auto columns = state_.sites.columns.find(&node);
    if (columns != state_.sites.columns.end()) return visit_site(node, columns->second.front());
    if (reads_all_channels(node)) return take_input(node);
    return passing_.pass_through(node);
  }

  Status visit_norm(const Norm& norm) {
    TransportMap map = state_.maps.at_last_axis(norm.input);
    if (norm.skip != nullptr) {
      const int axis = norm.skip->rank().value_or(0) - 1;
      OF_ASSIGN(map, joins_.joined({norm.input, axis}, {norm.skip, axis}, state_.maps));
    }
    if (map == nullptr) return {};
    for (const Value* vector : {norm.gain, norm.bias, norm.sum_bias}) {
      if (vector != nullptr) OF_TRY(state_.weights.map(*vector, vector->rank().value_or(1) - 1, *map));
    }
    const int axis = norm.output->rank().value_or(0) - 1;
    for (const Value* output : {norm.output, norm.sum}) {
      if (output != nullptr) state_.maps.set(output, axis, map);
    }
    return {};
  }

  // Convolutions and embeddings.
  Status visit_site(const Node& node, const SiteColumns& columns) {
    const bool table = node.is("Gather");
    const Value& weight = *node.input(table ? 0 : 1);
    OF_ASSIGN(const SitePlan* const plan, received_.plan(columns.site));
    const TransportMap map = output_map(plan->plan);
    if (table) {
      OF_TRY(state_.weights.map(weight, weight.rank().value_or(2) - 1, *map));
      state_.maps.set_last_axis(node.output(), map);
      return {};
    }
    std::vector<std::pair<int, Matrix>> maps = {{0, *map}};
    if (const TransportMap in = state_.maps.at(node.input(0), 1)) maps.push_back({1, input_map(*in)});
    OF_TRY(state_.weights.map(weight, maps));
    const Value* bias = node.input(2);
    if (bias != nullptr && parameter(bias) != nullptr) OF_TRY(state_.weights.map(*bias, 0, *map));
    state_.maps.set(node.output(), 1, map);
    return {};
  }

  Status take_input(const Node& node) {
    const TransportMap in = state_.maps.at(node.input(0), 1);
    return in == nullptr ? Status() : state_.weights.map(*node.input(1), 1, input_map(*in));
  }

  const Graph& anchor_;
  const WholeParts& parts_;
  const ResidualJoins& joins_;
  TransportState& state_;
  ReceivedWeights received_;
  MapPassing passing_;
  std::set<const Node*> biases_, visited_;
};

std::vector<MergeLayer> layers_of(const TransportState& state, std::vector<MergeLayer>& tables) {
  std::vector<MergeLayer> layers;
  for (std::size_t i = 0; i < state.plans.size(); ++i) {
    if (!state.plans[i]) continue;
    const SitePlan& plan = *state.plans[i];
    const TransportSite& site = state.sites.sites[i];
    layers.push_back({site.name, site.kind, plan.before, plan.after, plan.cost, plan.sharpness});
  }
  for (MergeLayer& table : tables) layers.push_back(std::move(table));
  return layers;
}

}  // namespace

Result<Transported> transport_model(Model& model, Model& anchor, const TransportOptions& options) {
  unshare_vectors(model.graph());
  unshare_vectors(anchor.graph());
  OF_ASSIGN(Correspondence partners, correspond(model.graph(), anchor.graph()));
  const AxisGroups groups = find_axis_groups(anchor.graph());
  OF_ASSIGN(TransportSites sites, find_transport_sites(model.graph(), anchor, partners, groups, options));
  AlignedWeights weights(partners, sites.kept);
  SitePlans plans(sites.sites.size());
  TransportState state{options,          std::move(partners), std::move(sites),
                       std::move(plans), ChannelMaps(groups), std::move(weights)};
  const WholeParts parts(anchor.graph(), groups.attentions);
  ResidualJoins joins(anchor.graph(), options.policy);
  if (options.data != nullptr) {
    std::map<const Value*, int> weighed;
    if (joins.weighs()) weighed = joined_values(anchor.graph(), state.maps, parts.inner);
    OF_ASSIGN(ActivationPlans made, activation_plans(model, anchor, state.maps, weighed, state.sites, options));
    state.plans = std::move(made.plans);
    joins.set_magnitudes(std::move(made.magnitudes));
  }
  Flow flow(anchor.graph(), parts, joins, state);
  OF_TRY(flow.walk());
  Transported result;
  result.layers = layers_of(state, flow.tables());
  OF_ASSIGN(result.model, state.weights.written(anchor));
  result.notes = state.weights.notes();
  return result;
}

}  // namespace onnxfold
