#include "exec/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "formats/onnx/schema.h"
#include "ir/instantiate.h"

namespace onnxfold {
namespace {

constexpr int kMaxDepth = 64;  // nested subgraphs and function calls; more is a cycle or an attack on the stack
constexpr std::int64_t kMaxSteps = 2'000'000;  // functions that call functions can grow without end

int new_slot(GraphPlan& plan, const Value* constant) {
  plan.constants.push_back(constant);
  return plan.slots() - 1;
}

// The slot of a value read in `graph`; a value of an enclosing graph becomes a capture.
int slot_for(GraphPlan& plan, const Graph& graph, const Value* value) {
  if (value == nullptr) return -1;
  const auto found = plan.slot_of.find(value);
  if (found != plan.slot_of.end()) return found->second;
  const bool constant = value->constant() != nullptr || value->sparse_initializer() != nullptr ||
                        (value->initializer() != nullptr && !value->is_graph_input());
  const int slot = new_slot(plan, constant ? value : nullptr);
  plan.slot_of.emplace(value, slot);
  if (!constant && value->graph() != &graph) plan.captures.emplace_back(value, slot);
  return slot;
}

// Inputs a kernel may take over: freed after the step, read once by it, and not captured by its subgraphs.
void plan_last_reads(Step& step) {
  for (const int slot : step.inputs) {
    bool last = std::find(step.frees.begin(), step.frees.end(), slot) != step.frees.end();
    last = last && std::count(step.inputs.begin(), step.inputs.end(), slot) == 1;
    for (const SubgraphPlan& sub : step.subgraphs) {
      last = last && std::find(sub.captured.begin(), sub.captured.end(), slot) == sub.captured.end();
    }
    step.last_read.push_back(last);
  }
}

// Lists each slot with the last step that reads it, so that its memory can be given back.
void plan_frees(GraphPlan& plan) {
  constexpr int kNever = -1, kKept = -2;
  std::vector<int> last(plan.constants.size(), kNever);
  const auto touch = [&](int slot, int step) {
    if (slot >= 0) last[static_cast<std::size_t>(slot)] = step;
  };
  for (int i = 0; i < static_cast<int>(plan.steps.size()); ++i) {
    const Step& step = plan.steps[static_cast<std::size_t>(i)];
    for (const int slot : step.outputs) touch(slot, i);
    for (const int slot : step.inputs) touch(slot, i);
    for (const SubgraphPlan& sub : step.subgraphs) {
      for (const int slot : sub.captured) touch(slot, i);
    }
  }
  for (const int slot : plan.outputs) touch(slot, kKept);
  for (std::size_t slot = 0; slot < last.size(); ++slot) {
    if (last[slot] >= 0) plan.steps[static_cast<std::size_t>(last[slot])].frees.push_back(static_cast<int>(slot));
  }
  for (Step& step : plan.steps) plan_last_reads(step);
}

bool types_known(const Node& node) {
  return std::all_of(node.inputs().begin(), node.inputs().end(), [](const Value* value) {
    return value == nullptr || (value->type().kind != Type::Kind::kNone &&
                                (!value->type().is_tensor() || value->dtype() != DType::kUndefined));
  });
}

}  // namespace

std::int64_t effective_opset(const Node& node, const Model* model) {
  std::int64_t opset = node.opset();
  if (opset == 0 && model != nullptr) {
    const auto found = model->opset_imports.find(node.domain());
    if (found != model->opset_imports.end()) opset = found->second;
  }
  return std::max<std::int64_t>(opset, 1);
}

std::string operator_text(const Node& node, std::int64_t opset) {
  const std::string domain = node.domain().empty() ? "" : node.domain() + ".";
  return fmt::format("{}{} (opset {})", domain, node.op_type(), opset);
}

Result<std::unique_ptr<Expansion>> Planner::expand(const Function& function, const Node& call, int depth) {
  auto expansion = std::make_unique<Expansion>();
  OF_ASSIGN(expansion->graph, instantiate(function, call));
  OF_ASSIGN(expansion->plan, plan(*expansion->graph, depth + 1));
  return expansion;
}

Status Planner::choose_implementation(Step& step) {
  const Node& node = *step.node;
  const Function* local = model_ == nullptr ? nullptr : find_function(*model_, node);
  if (local != nullptr) {
    OF_ASSIGN(step.body, expand(*local, node, step.depth));
    return {};
  }
  step.kernel = find_kernel(node.domain(), node.op_type(), step.opset);
  if (step.kernel != nullptr) return {};
  if (!operator_info(node.domain(), node.op_type(), step.opset).has_function_body) {
    missing_.insert(operator_text(node, step.opset));
    return {};
  }
  if (!types_known(node)) {
    step.late = std::make_unique<LateBodies>();
    return {};
  }
  OF_ASSIGN(std::unique_ptr<Function> function, function_body(node));
  if (function == nullptr) {
    missing_.insert(operator_text(node, step.opset));
    return {};
  }
  OF_ASSIGN(step.body, expand(*function, node, step.depth));
  step.body->function = std::move(function);
  return {};
}

Result<Step> Planner::make_step(GraphPlan& plan, const Graph& graph, const Node& node, int depth) {
  if (++steps_ > kMaxSteps) {
    return fail(Code::kUnsupported, fmt::format("the model expands to more than {} nodes", kMaxSteps));
  }
  Step step;
  step.node = &node;
  step.opset = effective_opset(node, model_);
  step.depth = depth;
  for (const Value* value : node.inputs()) step.inputs.push_back(slot_for(plan, graph, value));
  for (const Value* value : node.outputs()) step.outputs.push_back(slot_for(plan, graph, value));
  for (const Graph* subgraph : node.subgraphs()) {
    SubgraphPlan sub;
    sub.graph = subgraph;
    OF_ASSIGN(sub.plan, this->plan(*subgraph, depth + 1));
    for (const auto& [value, slot] : sub.plan->captures) sub.captured.push_back(slot_for(plan, graph, value));
    step.subgraphs.push_back(std::move(sub));
  }
  OF_TRY(choose_implementation(step));
  return step;
}

Result<std::unique_ptr<GraphPlan>> Planner::plan(const Graph& graph, int depth) {
  if (depth > kMaxDepth) {
    return fail(Code::kUnsupported, fmt::format("graphs and functions are nested more than {} deep", kMaxDepth));
  }
  auto plan = std::make_unique<GraphPlan>();
  for (const Value* input : graph.inputs()) plan->inputs.push_back(slot_for(*plan, graph, input));
  for (const Node* node : graph.nodes()) {
    if (node->is("Constant") && node->output() != nullptr && node->output()->constant() != nullptr) continue;
    OF_ASSIGN(Step step, make_step(*plan, graph, *node, depth));
    plan->steps.push_back(std::move(step));
  }
  for (const Value* output : graph.outputs()) plan->outputs.push_back(slot_for(*plan, graph, output));
  plan_frees(*plan);
  return plan;
}

Result<std::unique_ptr<GraphPlan>> Planner::plan_single(const Node& node) {
  auto plan = std::make_unique<GraphPlan>();
  for (const Value* value : node.inputs()) {
    // Fed by the caller, also where the value is a constant of the graph.
    if (value != nullptr && !plan->slot_of.contains(value)) plan->slot_of.emplace(value, new_slot(*plan, nullptr));
  }
  OF_ASSIGN(Step step, make_step(*plan, *node.graph(), node, 0));
  for (const int slot : step.outputs) {
    if (slot >= 0)
      plan->constants[static_cast<std::size_t>(slot)] = nullptr;  // of a Constant node: run it all the same
  }
  step.last_read.assign(step.inputs.size(), false);
  plan->inputs = step.inputs;
  plan->outputs = step.outputs;
  plan->steps.push_back(std::move(step));
  return plan;
}

Status Planner::refuse_missing() const {
  if (missing_.empty()) return {};
  return fail(Code::kUnsupported, fmt::format("the executor has no kernel for: {}", fmt::join(missing_, ", ")));
}

}  // namespace onnxfold
