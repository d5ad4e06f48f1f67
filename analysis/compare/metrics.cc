#include "analysis/compare/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/compare/accumulate.h"
#include "analysis/compare/task.h"

namespace onnxfold {
namespace {

Status check_interfaces(const Model& before, const Model& after) {
  const auto& a = before.graph().outputs();
  const auto& b = after.graph().outputs();
  if (a.size() != b.size()) {
    return fail(Code::kInvalidArgument, fmt::format("the models have {} and {} outputs", a.size(), b.size()));
  }
  for (const Value* input : before.graph().inputs()) {
    if (input->initializer() != nullptr) continue;
    const Value* other = after.graph().find(input->name());
    if (other == nullptr || !other->is_graph_input()) {
      return fail(Code::kInvalidArgument, fmt::format("the second model has no input '{}'", input->name()));
    }
    if (other->dtype() != input->dtype()) {
      return fail(Code::kInvalidArgument,
                  fmt::format("input '{}' is {} in the first model and {} in the second", input->name(),
                              to_string(input->type()), to_string(other->type())));
    }
  }
  for (const Value* input : after.graph().inputs()) {
    if (input->initializer() == nullptr && before.graph().find(input->name()) == nullptr) {
      return fail(Code::kInvalidArgument, fmt::format("the first model has no input '{}'", input->name()));
    }
  }
  return {};
}

double relative_l2(const Array& a, const Array& b) {
  const auto x = to_doubles(a);
  const auto y = to_doubles(b);
  if (!x || !y) return 0;
  double signal = 0;
  double noise = 0;
  for (std::size_t i = 0; i < x->size(); ++i) {
    const double d = (*x)[i] - (*y)[i];
    if (!std::isfinite(d)) {
      const bool same = (*x)[i] == (*y)[i] || (std::isnan((*x)[i]) && std::isnan((*y)[i]));
      if (same) continue;
      return std::numeric_limits<double>::infinity();
    }
    signal += (*x)[i] * (*x)[i];
    noise += d * d;
  }
  if (noise == 0) return 0;
  return signal > 0 ? std::sqrt(noise / signal) : std::numeric_limits<double>::infinity();
}

// Runs both models with taps on the values they share by name and finds the first that parts.
Result<std::string> find_divergence(const Model& before, const Model& after, const Feeds& feeds,
                                    const CompareOptions& options) {
  ExecutorOptions tapped;
  tapped.precision = options.precision;
  std::vector<const Value*> shared;
  for (const Node* node : before.graph().nodes()) {
    for (const Value* value : node->outputs()) {
      if (value == nullptr || !is_float(value->dtype())) continue;
      const Value* other = after.graph().find(value->name());
      if (other == nullptr || other->producer() == nullptr) continue;
      shared.push_back(value);
      tapped.taps.push_back(value->name());
    }
  }
  OF_ASSIGN(const auto first, Executor::create(before, tapped));
  OF_ASSIGN(const auto second, Executor::create(after, tapped));
  OF_ASSIGN(const RunResult a, first->run(feeds));
  OF_ASSIGN(const RunResult b, second->run(feeds));
  for (const Value* value : shared) {
    const auto x = a.taps.find(value->name());
    const auto y = b.taps.find(value->name());
    if (x == a.taps.end() || y == b.taps.end() || !x->second.is_array() || !y->second.is_array()) continue;
    if (x->second.array.dims() != y->second.array.dims()) continue;
    const double error = relative_l2(x->second.array, y->second.array);
    if (error <= options.locate_tolerance) continue;
    const Node* after_node = after.graph().find(value->name())->producer();
    return fmt::format("'{}' (relative error {:.3g}), made by {} '{}' and by {} '{}'", value->name(), error,
                       value->producer()->op_type(), value->producer()->label(), after_node->op_type(),
                       after_node->label());
  }
  return std::string();
}

}  // namespace

Result<Comparison> compare_models(const Model& before, const Model& after, const Dataset& data,
                                  const CompareOptions& options) {
  OF_TRY(check_interfaces(before, after));
  ExecutorOptions plain;
  plain.precision = options.precision;
  OF_ASSIGN(const auto first, Executor::create(before, plain));
  OF_ASSIGN(const auto second, Executor::create(after, plain));
  std::vector<OutputAccumulator> outputs;
  for (const Value* output : before.graph().outputs()) outputs.emplace_back(output->name());
  TaskMeter task(before, data);
  Comparison comparison;
  comparison.data_origin = data.origin;
  for (std::size_t batch = 0; batch < data.batches.size(); ++batch) {
    OF_ASSIGN(const RunResult a, first->run(data.batches[batch]));
    auto b = second->run(data.batches[batch]);
    if (!b) return fail(b.error().in("the second model"));
    for (std::size_t i = 0; i < outputs.size(); ++i) OF_TRY(outputs[i].add(a.outputs[i], b->outputs[i], batch));
    OF_TRY(task.add(data.batches[batch], a.outputs, b->outputs));
    comparison.samples += data.batch_sizes[batch];
    if (options.progress) options.progress(static_cast<double>(batch + 1) / static_cast<double>(data.batches.size()));
  }
  for (const OutputAccumulator& output : outputs) comparison.outputs.push_back(output.result());
  comparison.task = task.result();
  if (options.locate && !data.batches.empty()) {
    OF_ASSIGN(comparison.first_divergence, find_divergence(before, after, data.batches.front(), options));
  }
  return comparison;
}

}  // namespace onnxfold
