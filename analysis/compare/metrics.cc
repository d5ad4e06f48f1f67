#include "analysis/compare/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/compare/accumulate.h"
#include "analysis/compare/padding.h"
#include "analysis/compare/task.h"

namespace onnxfold {
namespace {

Status check_interfaces(const Model& before, const Model& after, bool fewer) {
  const auto& a = before.graph().outputs();
  const auto& b = after.graph().outputs();
  if (fewer ? a.size() < b.size() : a.size() != b.size()) {
    return fail(Code::kInvalidArgument, fmt::format("the models have {} and {} outputs", a.size(), b.size()));
  }
  for (const Value* input : before.graph().inputs()) {
    if (input->initializer() != nullptr) continue;
    const Value* other = after.graph().find(input->name());
    if (fewer && (other == nullptr || !other->is_graph_input())) continue;
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

// What the second model gave, in the order of the first one's outputs; by name where it has fewer.
std::vector<Datum> matched(const Model& before, const Model& after, std::vector<Datum> given) {
  const auto& wanted = before.graph().outputs();
  const auto& outputs = after.graph().outputs();
  if (wanted.size() == outputs.size()) return given;
  std::vector<Datum> result(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    for (std::size_t j = 0; j < outputs.size(); ++j) {
      if (outputs[j]->name() == wanted[i]->name()) result[i] = given[j];
    }
  }
  return result;
}

Feeds feeds_for(const Model& model, const Feeds& feeds, bool fewer) {
  if (!fewer) return feeds;
  Feeds fitting;
  for (const Value* input : model.graph().inputs()) {
    const auto found = feeds.find(input->name());
    if (found != feeds.end()) fitting.insert(*found);
  }
  return fitting;
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
  OF_ASSIGN(const RunResult b, second->run(feeds_for(after, feeds, options.fewer)));
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
  OF_TRY(check_interfaces(before, after, options.fewer));
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
    auto b = second->run(feeds_for(after, data.batches[batch], options.fewer));
    if (!b) return fail(b.error().in("the second model"));
    b->outputs = matched(before, after, std::move(b->outputs));
    const RowMask padding = options.padding ? RowMask() : output_padding(before, data.batches[batch]);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!b->outputs[i].present() && a.outputs[i].present()) continue;  // it has no such output any more
      OF_TRY(outputs[i].add(a.outputs[i], b->outputs[i], batch, padding));
    }
    OF_TRY(task.add(data.batches[batch], a.outputs, b->outputs));
    comparison.samples += data.batch_sizes[batch];
    if (options.progress) options.progress(static_cast<double>(batch + 1) / static_cast<double>(data.batches.size()));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Value* other = after.graph().find(before.graph().outputs()[i]->name());
    const bool gone = options.fewer && before.graph().outputs().size() != after.graph().outputs().size() &&
                      (other == nullptr || !other->is_graph_output());
    if (!gone) comparison.outputs.push_back(outputs[i].result());
  }
  comparison.task = task.result();
  if (options.locate && !data.batches.empty()) {
    OF_ASSIGN(comparison.first_divergence, find_divergence(before, after, data.batches.front(), options));
  }
  return comparison;
}

}  // namespace onnxfold
