#include "analysis/heal/model_walk.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

// Small constants that several nodes read (equal biases, merged): each reader gets its own, to be replaced alone.
void unshare_vectors(Graph& graph) {
  for (Value* value : graph.initializers()) {
    if (value->uses().size() < 2 || value->constant() == nullptr || value->constant()->rank() > 1) continue;
    const std::vector<Use> uses = value->uses();
    for (std::size_t i = 1; i < uses.size(); ++i) {
      if (uses[i].node == nullptr || uses[i].node->graph() != &graph) continue;
      Value* own = graph.add_initializer(value->name(), *value->constant());
      graph.set_input(*uses[i].node, static_cast<std::size_t>(uses[i].index), own);
    }
  }
}

}  // namespace

Result<std::unique_ptr<ModelWalk>> ModelWalk::create(const Model& model, const Dataset& data, const Recording& known,
                                                     const std::vector<std::string>& values) {
  std::unique_ptr<ModelWalk> walk(new ModelWalk());
  for (const std::string& name : values) ++walk->wanted_[name];
  std::vector<std::string> outputs;
  for (const auto& [name, times] : walk->wanted_) {
    const bool recorded = !known.batches.empty() && known.batches.front().count(name) != 0;
    if (!recorded) outputs.push_back(name);
    for (std::size_t i = 0; recorded && i < known.batches.size(); ++i) {
      walk->known_[name].push_back(known.batches[i].at(name));
    }
  }
  OF_ASSIGN(walk->part_, model_part(model, known.names(), outputs));
  Graph& graph = walk->part_->graph();
  unshare_vectors(graph);
  // An output is held to the end; what something reads is held until then.
  for (std::size_t i = graph.outputs().size(); i-- > 0;) {
    if (walk->first_reader(*graph.outputs()[i]) != nullptr) graph.remove_output(i);
  }
  std::vector<Feeds> feeds(data.batches.size());
  for (std::size_t i = 0; i < feeds.size(); ++i) {
    for (const Value* input : graph.inputs()) {
      const Taps* recorded = i < known.batches.size() ? &known.batches[i] : nullptr;
      const auto tap = recorded == nullptr ? Taps::const_iterator() : recorded->find(input->name());
      if (recorded != nullptr && tap != recorded->end()) {
        feeds[i].insert(*tap);
      } else if (const auto fed = data.batches[i].find(input->name()); fed != data.batches[i].end()) {
        feeds[i].insert(*fed);
      }
    }
  }
  OF_ASSIGN(walk->stepper_, Stepper::create(*walk->part_, feeds));
  std::vector<std::pair<const Node*, std::string>> stops;
  for (const std::string& name : outputs) stops.emplace_back(walk->first_reader(*graph.find(name)), name);
  std::stable_sort(stops.begin(), stops.end(), [&](const auto& a, const auto& b) {
    if (a.first == nullptr || b.first == nullptr) return a.first != nullptr;
    return a.first != b.first && graph.before(*a.first, *b.first);
  });
  for (auto& stop : stops) walk->coming_.push_back(std::move(stop.second));
  return walk;
}

const Node* ModelWalk::first_reader(const Value& value) const {
  const Node* first = nullptr;
  for (const Use& use : value.uses()) {
    if (use.node == nullptr) continue;
    if (first == nullptr || part_->graph().before(*use.node, *first)) first = use.node;
  }
  return first;
}

Status ModelWalk::keep(const std::string& name) {
  const Value* value = part_->graph().find(name);
  OF_TRY(stepper_->run_until(first_reader(*value)));
  std::vector<Datum>& data = kept_[name];
  for (std::size_t batch = 0; batch < stepper_->batches(); ++batch) {
    OF_ASSIGN(Datum datum, stepper_->value(batch, *value));
    data.push_back(std::move(datum));
  }
  return {};
}

Result<std::vector<Datum>> ModelWalk::pass(const std::string& name) {
  if (const auto recorded = known_.find(name); recorded != known_.end()) return recorded->second;
  const auto last = std::find(coming_.begin(), coming_.end(), name);
  if (last != coming_.end()) {
    const std::vector<std::string> now(coming_.begin(), last + 1);
    coming_.erase(coming_.begin(), last + 1);
    for (const std::string& each : now) OF_TRY(keep(each));
  }
  const auto found = kept_.find(name);
  if (found == kept_.end()) return fail(Code::kInternal, fmt::format("the walk was not told of '{}'", name));
  if (--wanted_[name] > 0) return found->second;
  std::vector<Datum> data = std::move(found->second);
  kept_.erase(found);
  return data;
}

Status ModelWalk::stop_before(const std::string& name) {
  const Value* value = part_->graph().find(name);
  if (value == nullptr || value->producer() == nullptr) return {};
  return stepper_->run_until(value->producer());
}

Result<std::vector<Datum>> ModelWalk::here(const std::string& name) const {
  if (const auto recorded = known_.find(name); recorded != known_.end()) return recorded->second;
  const Value* value = part_->graph().find(name);
  if (value == nullptr) return fail(Code::kInternal, fmt::format("the walk does not come to '{}'", name));
  std::vector<Datum> data;
  std::unique_ptr<Stepper> ahead;
  for (std::size_t batch = 0; batch < stepper_->batches(); ++batch) {
    OF_ASSIGN(Datum datum, (ahead ? *ahead : *stepper_).value(batch, *value));
    if (!datum.present() && !ahead) {
      ahead = stepper_->fork();
      OF_TRY(ahead->run_until(first_reader(*value)));
      OF_ASSIGN(datum, ahead->value(batch, *value));
    }
    data.push_back(std::move(datum));
  }
  return data;
}

Status ModelWalk::replace_operand(const std::string& name, std::size_t input, const Datum& datum) {
  const Value* value = part_->graph().find(name);
  if (value == nullptr || value->producer() == nullptr || value->producer()->input(input) == nullptr) {
    return fail(Code::kInternal, fmt::format("the walk does not come to '{}'", name));
  }
  return stepper_->replace(*value->producer()->input(input), datum);
}

}  // namespace onnxfold
