#include "exec/stepper.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "exec/feeds.h"
#include "exec/memory_pool.h"
#include "exec/plan.h"
#include "exec/run.h"

namespace onnxfold {

struct Stepper::State {
  explicit State(const Model& owner) : model(owner), constants(std::make_shared<ConstantCache>(Precision::kFloat32)) {}

  const Model& model;
  std::shared_ptr<ConstantCache> constants;  // shared between forks, like the plan
  std::shared_ptr<const GraphPlan> plan;
  std::vector<Runner::Frame> frames;                     // by batch
  std::unordered_map<const Node*, std::size_t> step_of;  // looked up only
  std::vector<bool> uniform;           // by step: computed from constants alone, the same for every batch
  std::vector<std::size_t> last_read;  // by slot: the last step that reads it
  std::map<int, Datum> replaced;       // by slot, until nothing reads it any more
  std::size_t next = 0;
  bool fork = false;  // of one that lives on and soon wants the memory again

  void find_uniform_steps();
  void find_last_reads();
  void put_replaced(const Step& step, Runner::Frame& frame) const;
  Status run_batch(std::size_t batch, std::size_t end, std::map<int, Datum>& shared);
};

namespace {

bool is_random(const Node& node) {
  for (const char* op : {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
                         "Bernoulli", "Dropout"}) {
    if (node.is(op)) return true;
  }
  return false;
}

}  // namespace

void Stepper::State::find_uniform_steps() {
  std::vector<bool> constant(plan->constants.size());
  for (std::size_t slot = 0; slot < constant.size(); ++slot) constant[slot] = plan->constants[slot] != nullptr;
  for (const Step& step : plan->steps) {
    const bool same = step.subgraphs.empty() && !is_random(*step.node) &&
                      std::all_of(step.inputs.begin(), step.inputs.end(),
                                  [&](int slot) { return slot < 0 || constant[static_cast<std::size_t>(slot)]; });
    uniform.push_back(same);
    for (const int slot : step.outputs) {
      if (slot >= 0 && same) constant[static_cast<std::size_t>(slot)] = true;
    }
  }
}

void Stepper::State::find_last_reads() {
  last_read.assign(plan->constants.size(), plan->steps.size());
  for (std::size_t i = 0; i < plan->steps.size(); ++i) {
    for (const int slot : plan->steps[i].frees) last_read[static_cast<std::size_t>(slot)] = i;
  }
}

void Stepper::State::put_replaced(const Step& step, Runner::Frame& frame) const {
  for (const int slot : step.outputs) {
    const auto found = replaced.find(slot);
    if (found != replaced.end()) frame[static_cast<std::size_t>(slot)] = found->second;
  }
}

Status Stepper::State::run_batch(std::size_t batch, std::size_t end, std::map<int, Datum>& shared) {
  Runner::Frame& frame = frames[batch];
  for (const auto& [slot, datum] : replaced) frame[static_cast<std::size_t>(slot)] = datum;
  Runner runner(&model, Precision::kFloat32, *constants);
  for (std::size_t i = next; i < end; ++i) {
    const Step& step = plan->steps[i];
    if (uniform[i] && batch > 0) {
      for (const int slot : step.outputs) {
        if (slot >= 0) frame[static_cast<std::size_t>(slot)] = shared[slot];
      }
      for (const int slot : step.frees) frame[static_cast<std::size_t>(slot)] = Datum();
    } else {
      OF_TRY(runner.step(*plan, step, frame, [&](const Value& value, const Datum& datum) -> Status {
        if (uniform[i]) shared[plan->slot_of.at(&value)] = datum;
        return {};
      }));
    }
    put_replaced(step, frame);
  }
  // Constants come from the cache again: a batch that waits holds none.
  for (std::size_t slot = 0; slot < frame.size(); ++slot) {
    if (plan->constants[slot] != nullptr) frame[slot] = Datum();
  }
  return {};
}

Stepper::Stepper(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stepper::~Stepper() {
  if (!state_->fork) release_pooled_memory();
}

Result<std::unique_ptr<Stepper>> Stepper::create(const Model& model, const std::vector<Feeds>& batches) {
  auto state = std::make_unique<State>(model);
  Planner planner(&model);
  OF_ASSIGN(state->plan, planner.plan(model.graph()));
  OF_TRY(planner.refuse_missing());
  const GraphPlan& plan = *state->plan;
  for (const Feeds& feeds : batches) {
    OF_ASSIGN(std::vector<Datum> inputs, collect_feeds(model.graph(), feeds, Precision::kFloat32));
    Runner::Frame frame(plan.constants.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (plan.inputs[i] >= 0) frame[static_cast<std::size_t>(plan.inputs[i])] = std::move(inputs[i]);
    }
    state->frames.push_back(std::move(frame));
  }
  for (std::size_t i = 0; i < plan.steps.size(); ++i) state->step_of.emplace(plan.steps[i].node, i);
  state->find_uniform_steps();
  state->find_last_reads();
  return std::unique_ptr<Stepper>(new Stepper(std::move(state)));
}

Status Stepper::run_until(const Node* node) {
  std::size_t end = state_->plan->steps.size();
  if (node != nullptr) {
    const auto found = state_->step_of.find(node);
    if (found == state_->step_of.end()) return fail(Code::kInternal, "stepper: the node is not in the main graph");
    end = found->second;
  }
  if (end <= state_->next) return {};
  std::map<int, Datum> shared;
  for (std::size_t batch = 0; batch < state_->frames.size(); ++batch) OF_TRY(state_->run_batch(batch, end, shared));
  state_->next = end;
  for (auto it = state_->replaced.begin(); it != state_->replaced.end();) {
    const bool over = state_->last_read[static_cast<std::size_t>(it->first)] < end;
    it = over ? state_->replaced.erase(it) : std::next(it);
  }
  return {};
}

Result<Datum> Stepper::value(std::size_t batch, const Value& value) const {
  const auto found = state_->plan->slot_of.find(&value);
  if (found == state_->plan->slot_of.end()) return Datum();
  const auto slot = static_cast<std::size_t>(found->second);
  if (const auto replaced = state_->replaced.find(found->second); replaced != state_->replaced.end()) {
    return replaced->second;
  }
  if (state_->plan->constants[slot] != nullptr) return state_->constants->get(value);
  return state_->frames[batch][slot];
}

Status Stepper::replace(const Value& value, const Datum& datum) {
  const auto found = state_->plan->slot_of.find(&value);
  if (found == state_->plan->slot_of.end()) {
    return fail(Code::kInvalidArgument, fmt::format("stepper: value '{}' is not in the main graph", value.name()));
  }
  const auto slot = static_cast<std::size_t>(found->second);
  state_->replaced[found->second] = datum;
  if (state_->plan->constants[slot] != nullptr) return {};
  for (Runner::Frame& frame : state_->frames) {
    if (frame[slot].present()) frame[slot] = datum;
  }
  return {};
}

std::unique_ptr<Stepper> Stepper::fork() const {
  auto state = std::make_unique<State>(*state_);
  state->fork = true;
  return std::unique_ptr<Stepper>(new Stepper(std::move(state)));
}

std::size_t Stepper::batches() const { return state_->frames.size(); }

}  // namespace onnxfold
