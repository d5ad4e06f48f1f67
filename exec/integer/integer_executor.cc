#include "exec/integer/integer_executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "exec/feeds.h"
#include "exec/integer/integer_rules.h"
#include "exec/plan.h"
#include "exec/run.h"

namespace onnxfold {

struct IntegerExecutor::State {
  explicit State(const Model& owner) : model(owner), constants(Precision::kFloat32) {}

  const Model& model;
  mutable ConstantCache constants;
  std::unique_ptr<GraphPlan> plan;
  std::set<std::string> taps;
  std::vector<bool> uniform;  // by slot: computed from constants alone
};

namespace {

constexpr std::int64_t kFirstInexact = std::int64_t{1} << 24;  // from here on float32 leaves integers out

// One run over a plan.
class Walk {
 public:
  Walk(const Model& model, ConstantCache& constants, const GraphPlan& plan, const std::vector<bool>& uniform,
       IntegerCounts& counts)
      : plan_(plan),
        uniform_(uniform),
        counts_(counts),
        constants_(constants),
        frame_(plan.constants.size()),
        floats_(plan.constants.size()),
        runner_(&model, Precision::kFloat32, constants) {}

  void feed(int slot, Datum datum) {
    if (slot >= 0) frame_[static_cast<std::size_t>(slot)].datum = std::move(datum);
  }

  Result<Cell> take(int slot) {
    if (slot < 0) return Cell();
    Cell& cell = frame_[static_cast<std::size_t>(slot)];
    const Value* constant = plan_.constants[static_cast<std::size_t>(slot)];
    if (!cell.present() && constant != nullptr) {
      OF_ASSIGN(cell.datum, constants_.get(*constant));
    }
    return cell;
  }

  Status step(const Step& step) {
    std::vector<Cell> cells;
    for (const int slot : step.inputs) {
      OF_ASSIGN(Cell cell, take(slot));
      cells.push_back(std::move(cell));
    }
    const bool data = std::any_of(step.inputs.begin(), step.inputs.end(),
                                  [&](int slot) { return slot >= 0 && !uniform_[static_cast<std::size_t>(slot)]; });
    if (!on_numbers(step)) return with_floats(step, cells, false);
    Peak peak;
    OF_ASSIGN(std::optional<Cell> made, integers(step, cells, peak));
    if (!made) return with_floats(step, cells, data);
    if (data) ++counts_.integer;
    if (peak.largest > counts_.largest_sum) {
      counts_.largest_sum = peak.largest;
      counts_.where = step.node->label();
    }
    if (peak.largest >= kFirstInexact) {
      std::int64_t& most = counts_.beyond[step.node->label()];
      most = std::max(most, peak.largest);
    }
    if (step.outputs[0] >= 0) frame_[static_cast<std::size_t>(step.outputs[0])] = std::move(*made);
    release(step);
    return {};
  }

 private:
  // Does it read or make float32 arrays?
  bool on_numbers(const Step& step) {
    const auto is_number = [](const Value* v) { return v != nullptr && v->dtype() == DType::kFloat32; };
    const auto& in = step.node->inputs();
    return std::any_of(in.begin(), in.end(), is_number) || is_number(step.node->output()) ||
           step.node->is("DequantizeLinear") || step.node->is("QuantizeLinear") ||
           std::any_of(step.inputs.begin(), step.inputs.end(),
                       [&](int slot) { return slot >= 0 && frame_[static_cast<std::size_t>(slot)].fixed != nullptr; });
  }

  Result<std::optional<Cell>> integers(const Step& step, const std::vector<Cell>& cells, Peak& peak) {
    if (step.node->outputs().size() == 1) return integer_result(*step.node, cells, peak);
    if (!step.node->is("Split")) return std::optional<Cell>();
    return split(step, cells);
  }

  // Split makes several results: all of them are put here but the first.
  Result<std::optional<Cell>> split(const Step& step, const std::vector<Cell>& cells) {
    const auto fixed = fixed_of(cells[0]);
    if (fixed == nullptr) return std::optional<Cell>();
    std::vector<Datum> high, low;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      high.push_back(i == 0 ? Datum(mantissa_array(*fixed)) : cells[i].datum);
      low.push_back(i == 0 ? Datum(exponent_array(*fixed)) : cells[i].datum);
    }
    OF_ASSIGN(const std::vector<Datum> mantissas, run_node(*step.node, std::move(high), Precision::kFloat32));
    OF_ASSIGN(const std::vector<Datum> exponents, run_node(*step.node, std::move(low), Precision::kFloat32));
    std::optional<Cell> first;
    for (std::size_t i = 0; i < mantissas.size() && i < step.outputs.size(); ++i) {
      Cell part{std::make_shared<const FixedArray>(fixed_from_parts(mantissas[i].array, exponents[i].array)), Datum()};
      if (i == 0) {
        first = std::move(part);
      } else if (step.outputs[i] >= 0) {
        frame_[static_cast<std::size_t>(step.outputs[i])] = std::move(part);
      }
    }
    return first;
  }

  Status with_floats(const Step& step, const std::vector<Cell>& cells, bool counted) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (step.inputs[i] >= 0) floats_[static_cast<std::size_t>(step.inputs[i])] = datum_of(cells[i]);
    }
    for (const SubgraphPlan& sub : step.subgraphs) {
      for (const int slot : sub.captured) {
        OF_ASSIGN(const Cell cell, take(slot));
        floats_[static_cast<std::size_t>(slot)] = datum_of(cell);
      }
    }
    OF_TRY(runner_.step(plan_, step, floats_));
    for (const int slot : step.outputs) {
      if (slot < 0) continue;
      frame_[static_cast<std::size_t>(slot)] = Cell{nullptr, std::move(floats_[static_cast<std::size_t>(slot)])};
    }
    std::fill(floats_.begin(), floats_.end(), Datum());
    // Shapes are no numbers of the model.
    if (counted && !step.node->is("Shape") && !step.node->is("Size")) ++counts_.floats[step.node->op_type()];
    release(step);
    return {};
  }

  void release(const Step& step) {
    for (const int slot : step.frees) frame_[static_cast<std::size_t>(slot)] = Cell();
  }

  const GraphPlan& plan_;
  const std::vector<bool>& uniform_;
  IntegerCounts& counts_;
  ConstantCache& constants_;
  std::vector<Cell> frame_;
  Runner::Frame floats_;
  Runner runner_;
};

std::vector<bool> uniform_slots(const GraphPlan& plan) {
  std::vector<bool> uniform(plan.constants.size());
  for (std::size_t slot = 0; slot < uniform.size(); ++slot) uniform[slot] = plan.constants[slot] != nullptr;
  for (const Step& step : plan.steps) {
    const bool same = step.subgraphs.empty() && std::all_of(step.inputs.begin(), step.inputs.end(), [&](int slot) {
                        return slot < 0 || uniform[static_cast<std::size_t>(slot)];
                      });
    for (const int slot : step.outputs) {
      if (slot >= 0) uniform[static_cast<std::size_t>(slot)] = same;
    }
  }
  return uniform;
}

}  // namespace

IntegerExecutor::IntegerExecutor(std::unique_ptr<State> state) : state_(std::move(state)) {}
IntegerExecutor::~IntegerExecutor() = default;

Result<std::unique_ptr<IntegerExecutor>> IntegerExecutor::create(const Model& model, std::vector<std::string> taps) {
  auto state = std::make_unique<State>(model);
  Planner planner(&model);
  OF_ASSIGN(state->plan, planner.plan(model.graph()));
  OF_TRY(planner.refuse_missing());
  for (std::string& tap : taps) {
    if (model.graph().find(tap) == nullptr) {
      return fail(Code::kInvalidArgument, fmt::format("there is no value \"{}\" to tap", tap));
    }
    state->taps.insert(std::move(tap));
  }
  state->uniform = uniform_slots(*state->plan);
  return std::unique_ptr<IntegerExecutor>(new IntegerExecutor(std::move(state)));
}

Result<RunResult> IntegerExecutor::run(const Feeds& feeds, IntegerCounts* counts) const {
  IntegerCounts unread;
  const GraphPlan& plan = *state_->plan;
  OF_ASSIGN(std::vector<Datum> inputs, collect_feeds(state_->model.graph(), feeds, Precision::kFloat32));
  Walk walk(state_->model, state_->constants, plan, state_->uniform, counts == nullptr ? unread : *counts);
  for (std::size_t i = 0; i < inputs.size(); ++i) walk.feed(plan.inputs[i], std::move(inputs[i]));
  RunResult result;
  for (const Step& step : plan.steps) {
    OF_TRY(walk.step(step));
    for (std::size_t i = 0; i < step.outputs.size(); ++i) {
      const Value* value = step.node->output(i);
      if (value == nullptr || !state_->taps.contains(value->name())) continue;
      OF_ASSIGN(const Cell cell, walk.take(step.outputs[i]));
      if (cell.present()) result.taps[value->name()] = datum_of(cell);
    }
  }
  for (const int slot : plan.outputs) {
    OF_ASSIGN(const Cell cell, walk.take(slot));
    result.outputs.push_back(datum_of(cell));
  }
  return result;
}

}  // namespace onnxfold
