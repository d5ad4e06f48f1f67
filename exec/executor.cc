#include "exec/executor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
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

tl::unexpected<Error> bad_input(const Value& input, const std::string& given) {
  return fail(Code::kInvalidArgument,
              fmt::format("input \"{}\": expected {}, got {}", input.name(), to_string(input.type()), given));
}

Status check_array(const Value& input, const Array& array) {
  const Type& type = input.type();
  const std::string given = fmt::format("{}{}", name(array.dtype()), dims_text(array.dims()));
  if (!array.defined()) return bad_input(input, "an undefined array");
  if (type.dtype != DType::kUndefined && type.dtype != array.dtype()) return bad_input(input, given);
  if (!type.shape) return {};
  if (type.shape->size() != array.dims().size()) return bad_input(input, given);
  for (std::size_t i = 0; i < type.shape->size(); ++i) {
    const Dim& dim = (*type.shape)[i];
    if (dim.known() && *dim.value != array.dims()[i]) return bad_input(input, given);
  }
  return {};
}

Status check_feed(const Value& input, const Datum& datum) {
  const Type::Kind expected = input.type().kind;
  if (!datum.present()) return bad_input(input, "nothing");
  if (expected == Type::Kind::kNone) return {};
  if (expected == Type::Kind::kTensor) {
    if (!datum.is_array()) return bad_input(input, "something that is not a tensor");
    return check_array(input, datum.array);
  }
  if (expected == Type::Kind::kSequence && datum.kind != Datum::Kind::kSequence) {
    return bad_input(input, to_string(type_of(datum)));
  }
  return {};
}

// Feeds made for the other precision are converted.
Datum in_precision(Datum datum, Precision precision) {
  if (datum.items != nullptr) {
    std::vector<Datum> items;
    for (const Datum& item : *datum.items) items.push_back(in_precision(item, precision));
    return datum.kind == Datum::Kind::kSequence ? Datum::sequence(std::move(items)) : Datum::optional(std::move(items));
  }
  if (!datum.is_array()) return datum;
  const Array& array = datum.array;
  const Storage wanted = storage_for(array.dtype(), precision);
  if (array.storage() == wanted) return datum;
  Array converted(array.dtype(), array.dims(), precision);
  visit_float(array.storage(), [&]<typename From>(Tag<From>) {
    visit_float(wanted, [&]<typename To>(Tag<To>) {
      std::copy_n(array.data<From>(), array.size(), converted.mutable_data<To>());
    });
  });
  return Datum(std::move(converted));
}

std::string input_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Value* input : graph.inputs()) names.push_back(input->name());
  return fmt::format("{}", fmt::join(names, ", "));
}

Result<Datum> feed_for(const Value& input, const Feeds& feeds, Precision precision) {
  const auto found = feeds.find(input.name());
  if (found != feeds.end()) {
    OF_TRY(check_feed(input, found->second));
    return in_precision(found->second, precision);
  }
  if (const Tensor* fallback = input.initializer()) {
    OF_ASSIGN(Array array, to_array(*fallback, precision));
    return Datum(std::move(array));
  }
  if (input.type().kind == Type::Kind::kOptional) return Datum::optional({});
  return bad_input(input, "nothing: it is missing from the data");
}

Result<std::vector<Datum>> collect_feeds(const Graph& graph, const Feeds& feeds, Precision precision) {
  for (const auto& [name, datum] : feeds) {
    const auto matches = [&wanted = name](const Value* input) { return input->name() == wanted; };
    if (std::none_of(graph.inputs().begin(), graph.inputs().end(), matches)) {
      return fail(Code::kInvalidArgument,
                  fmt::format("the model has no input \"{}\"; its inputs are: {}", name, input_names(graph)));
    }
  }
  std::vector<Datum> inputs;
  for (const Value* input : graph.inputs()) {
    OF_ASSIGN(Datum datum, feed_for(*input, feeds, precision));
    inputs.push_back(std::move(datum));
  }
  return inputs;
}

Status refuse_missing(const Planner& planner) {
  if (planner.missing().empty()) return {};
  return fail(Code::kUnsupported,
              fmt::format("the executor has no kernel for: {}", fmt::join(planner.missing(), ", ")));
}

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
  OF_TRY(refuse_missing(planner));
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
  OF_TRY(refuse_missing(planner));
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
