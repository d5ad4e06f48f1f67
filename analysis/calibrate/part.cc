#include "analysis/calibrate/part.h"

#include <fmt/format.h>

#include <set>

#include "ir/dead_nodes.h"

namespace onnxfold {
namespace {

Result<Value*> value_named(Graph& graph, const std::string& name) {
  Value* value = graph.find(name);
  if (value == nullptr) return fail(Code::kInvalidArgument, fmt::format("the model has no value '{}'", name));
  return value;
}

// Makes an inner value an input under its own name.
void cut_at(Graph& graph, Value& value) {
  const std::string name = value.name();
  const Type type = value.dtype() == DType::kUndefined ? Type::none() : Type::tensor(value.dtype());
  graph.rename(value, name + "_before_cut");
  Value* input = graph.add_input(name, type);
  graph.replace_all_uses(value, *input);
}

void remove_unused_inputs(Graph& graph) {
  for (std::size_t i = graph.inputs().size(); i-- > 0;) {
    if (graph.inputs()[i]->uses().empty()) graph.remove_input(i);
  }
}

Result<Feeds> feeds_of(const Model& model, const Feeds& data, const Taps* recorded) {
  Feeds feeds;
  for (const Value* input : model.graph().inputs()) {
    if (recorded != nullptr) {
      const auto found = recorded->find(input->name());
      if (found != recorded->end()) {
        feeds.insert(*found);
        continue;
      }
    }
    const auto found = data.find(input->name());
    if (found != data.end()) feeds.insert(*found);
  }
  return feeds;
}

}  // namespace

Result<std::unique_ptr<Model>> model_part(const Model& model, const std::vector<std::string>& inputs,
                                          const std::vector<std::string>& outputs) {
  std::unique_ptr<Model> part = model.clone();
  Graph& graph = part->graph();
  std::vector<Value*> wanted, cuts;
  for (const std::string& name : outputs) {
    OF_ASSIGN(Value * value, value_named(graph, name));
    wanted.push_back(value);
  }
  for (const std::string& name : inputs) {
    OF_ASSIGN(Value * value, value_named(graph, name));
    if (!value->is_graph_input() && value->producer() != nullptr) cuts.push_back(value);
  }
  while (!graph.outputs().empty()) graph.remove_output(graph.outputs().size() - 1);
  for (Value* value : cuts) cut_at(graph, *value);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    Value* value = graph.find(outputs[i]);  // a cut value is an input now
    if (!value->is_graph_output()) graph.add_output(*value);
  }
  erase_dead_nodes(graph);
  remove_unused_inputs(graph);
  graph.purge();
  return part;
}

std::vector<std::string> Recording::names() const {
  std::vector<std::string> all;
  if (batches.empty()) return all;
  for (const auto& entry : batches.front()) all.push_back(entry.first);
  return all;
}

void Recording::forget(const std::string& name) {
  for (Taps& batch : batches) batch.erase(name);
}

void Recording::merge(Recording other) {
  if (batches.empty()) batches.resize(other.batches.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    for (auto& [name, datum] : other.batches[i]) batches[i][name] = std::move(datum);
  }
}

Result<Recording> record(const Model& model, const Dataset& data, const std::vector<std::string>& values,
                         const Recording* recorded) {
  ExecutorOptions options;
  options.taps = values;
  OF_ASSIGN(const auto executor, Executor::create(model, options));
  Recording result;
  for (std::size_t i = 0; i < data.batches.size(); ++i) {
    OF_ASSIGN(const Feeds feeds,
              feeds_of(model, data.batches[i], recorded == nullptr ? nullptr : &recorded->batches[i]));
    OF_ASSIGN(RunResult run, executor->run(feeds));
    result.batches.push_back(std::move(run.taps));
  }
  return result;
}

Result<Recording> replay(const Model& model, const Dataset& data, const Recording& recorded,
                         const std::vector<std::string>& values) {
  OF_ASSIGN(const auto part, model_part(model, recorded.names(), values));
  return record(*part, data, values, &recorded);
}

}  // namespace onnxfold
