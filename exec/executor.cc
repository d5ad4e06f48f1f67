#include "exec/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "exec/feeds.h"
#include "exec/memory_pool.h"
#include "exec/plan.h"
#include "exec/run.h"

namespace onnxfold {

struct Executor::Plan {
  Plan(const Model& owner, ExecutorOptions chosen)
      : model(owner), options(std::move(chosen)), constants(options.precision) {}

  const Model& model;
  const ExecutorOptions options;
  ConstantCache constants;
  std::unique_ptr<GraphPlan> graph;
  std::vector<const Value*> early_taps;        // inputs and initializers among the taps
  std::unordered_set<const Value*> node_taps;  // looked up only, never iterated
};

namespace {

// Values that outer graphs hold and a folded node's subgraphs read: only constants can be had without running.
Result<std::vector<Datum>> constant_captures(const GraphPlan& plan, const Node& node) {
  if (plan.captures.empty()) return std::vector<Datum>();
  return fail(Code::kUnsupported, fmt::format("node \"{}\": its subgraphs read \"{}\", which is not constant",
                                              node.label(), plan.captures.front().first->name()));
}

}  // namespace

Executor::Executor(std::unique_ptr<Plan> plan) : plan_(std::move(plan)) {}
Executor::~Executor() { release_pooled_memory(); }

Result<std::unique_ptr<Executor>> Executor::create(const Model& model, ExecutorOptions options) {
  auto plan = std::make_unique<Plan>(model, std::move(options));
  Planner planner(&model);
  OF_ASSIGN(plan->graph, planner.plan(model.graph()));
  OF_TRY(planner.refuse_missing());
  for (const std::string& tap : plan->options.taps) {
    const Value* value = model.graph().find(tap);
    if (value == nullptr) return fail(Code::kInvalidArgument, fmt::format("there is no value \"{}\" to tap", tap));
    const bool early = value->producer() == nullptr || value->constant() != nullptr;
    if (early) plan->early_taps.push_back(value);
    if (!early) plan->node_taps.insert(value);
  }
  return std::unique_ptr<Executor>(new Executor(std::move(plan)));
}

Result<RunResult> Executor::run(const Feeds& feeds) const {
  RunResult taps;
  const TapSink keep = [&](const Value& value, const Datum& datum) -> Status {
    taps.taps.emplace(value.name(), datum);
    return {};
  };
  OF_ASSIGN(RunResult result, run(feeds, keep));
  result.taps = std::move(taps.taps);
  return result;
}

Result<RunResult> Executor::run(const Feeds& feeds, const TapSink& sink) const {
  OF_ASSIGN(std::vector<Datum> inputs, collect_feeds(plan_->model.graph(), feeds, plan_->options.precision));
  for (const Value* value : plan_->early_taps) {
    const auto& all = plan_->model.graph().inputs();
    const auto at = std::find(all.begin(), all.end(), value);
    if (at != all.end()) {
      OF_TRY(sink(*value, inputs[static_cast<std::size_t>(at - all.begin())]));
    } else {
      OF_ASSIGN(const Datum datum, plan_->constants.get(*value));
      OF_TRY(sink(*value, datum));
    }
  }
  const bool all = plan_->options.tap_all;
  ValueSink tapped;
  if (all || !plan_->node_taps.empty()) {
    tapped = [&](const Value& value, const Datum& datum) -> Status {
      const bool wanted = plan_->node_taps.contains(&value) || (all && datum.is_array());
      return wanted ? sink(value, datum) : Status();
    };
  }
  Runner runner(&plan_->model, plan_->options.precision, plan_->constants);
  RunResult result;
  OF_ASSIGN(result.outputs, runner.run(*plan_->graph, std::move(inputs), {}, tapped));
  return result;
}

Result<std::vector<Datum>> run_node(const Node& node, std::vector<Datum> inputs, Precision precision) {
  const Model* model = node.graph()->model();
  Planner planner(model);
  OF_ASSIGN(const std::unique_ptr<GraphPlan> plan, planner.plan_single(node));
  OF_TRY(planner.refuse_missing());
  OF_ASSIGN(std::vector<Datum> captured, constant_captures(*plan, node));
  for (Datum& input : inputs) input = in_precision(std::move(input), precision);
  inputs.resize(plan->inputs.size());
  ConstantCache constants(precision);
  Runner runner(model, precision, constants);
  return runner.run(*plan, std::move(inputs), std::move(captured));
}

bool supports(const Node& node) {
  Planner planner(node.graph()->model());
  return planner.plan_single(node).has_value() && planner.missing().empty();
}

}  // namespace onnxfold
