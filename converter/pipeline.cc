#include "converter/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "formats/onnx/schema.h"
#include "ir/dump.h"
#include "ir/verify.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

std::int64_t count_nodes(Model& model) {
  std::int64_t count = 0;
  for (const Graph* graph : model.graphs()) count += static_cast<std::int64_t>(graph->node_count());
  return count;
}

// Remarks name nodes that may be gone when the report is made, so operators are looked up before the pass runs.
using Operators = std::unordered_map<std::string, std::string>;

Operators operators_by_label(Model& model) {
  Operators operators;
  for (const Graph* graph : model.graphs()) {
    for (const Node* node : graph->nodes()) operators.emplace(node->label(), node->op_type());
  }
  return operators;
}

class Pipeline {
 public:
  Pipeline(Model& model, const PipelineOptions& options) : model_(model), options_(options) {}

  Result<PipelineResult> run(const Recipe& recipe) {
    count_ = result_.count = pass_count(recipe.steps);
    // A file that already breaks the schemas (many that every runtime loads do) says nothing about our passes.
    schemas_hold_ = check_model(model_).has_value();
    OF_TRY(infer_shapes(model_));
    schemas_hold_ =
        schemas_hold_ && check_model(model_).has_value();  // types that the file does not tell may break them
    before_ = fingerprint(model_);
    for (const RecipeStep& step : recipe.steps) {
      OF_TRY(refresh_types());
      OF_TRY(run_step(step));
    }
    OF_TRY(refresh_types());
    if (result_.changed) tell_nodes_apart();
    return std::move(result_);
  }

 private:
  Result<bool> run_step(const RecipeStep& step) {
    return step.until_stable.empty() ? run_pass(step) : run_group(step.until_stable);
  }

  Result<bool> run_group(const std::vector<RecipeStep>& steps) {
    const int first = index_;
    bool ever = false;
    for (int round = 0; round < options_.max_rounds; ++round) {
      OF_TRY(refresh_types());
      bool changed = false;
      index_ = first;
      for (const RecipeStep& step : steps) {
        OF_ASSIGN(const bool here, run_step(step));
        changed = changed || here;
      }
      if (!changed) return ever;
      ever = true;
    }
    result_.remarks.push_back({Remark::Kind::kNote, "until-stable", "",
                               fmt::format("still changing after {} rounds; stopped", options_.max_rounds), 0, 0, ""});
    return ever;
  }

  Result<bool> run_pass(const RecipeStep& step) {
    ++index_;
    if (options_.on_pass) options_.on_pass(step.pass, index_, count_, 0);
    auto changed = run_checked(step);
    if (!changed) return fail(changed.error().in(fmt::format("{} (pass {} of {})", step.pass, index_, count_)));
    return changed;
  }

  Result<bool> run_checked(const RecipeStep& step) {
    const PassInfo* info = find_pass(step.pass);
    if (info == nullptr) return fail(Code::kInvalidArgument, "there is no such pass");
    OF_ASSIGN(const PassOptions options, PassOptions::parse(info->name, info->options, step.options));
    const auto start = std::chrono::steady_clock::now();
    PassRun run{step.pass, false, 0, count_nodes(model_), 0};
    const Operators operators = info->exactness == Exactness::kLossy ? operators_by_label(model_) : Operators();
    PassContext context(model_, step.pass);
    context.seed = options_.seed;
    if (options_.on_pass) {
      context.progress = [&](double done) { options_.on_pass(step.pass, index_, count_, done); };
    }
    context.calibration = options_.calibration;
    context.reference = reference_.get();
    std::unique_ptr<Model> before;  // tensors are shared: only the graph is copied
    if (info->exactness == Exactness::kLossy && reference_ == nullptr) before = model_.clone();
    OF_ASSIGN(run.changed, run_on_every_graph(*info->make(options), context));
    OF_TRY(check_contract(run.changed));
    keep_remarks(context, operators);
    run.nodes_after = count_nodes(model_);
    run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result_.runs.push_back(run);
    if (!run.changed) return false;
    if (before != nullptr) reference_ = std::move(before);
    result_.changed = types_stale_ = true;
    result_.exactness = std::max(result_.exactness, info->exactness);
    if (options_.after_changed) OF_TRY(options_.after_changed(step.pass, model_));
    return true;
  }

  Result<bool> run_on_every_graph(Pass& pass, PassContext& context) {
    bool changed = false;
    std::set<const Graph*> seen;
    // A run may erase the node that a subgraph hangs on, and may put other subgraphs in the place of all (a change of
    // the opset does), so the list is made anew each time. What is erased keeps its memory until purge().
    for (Graph* graph = next(seen); graph != nullptr; graph = next(seen)) {
      seen.insert(graph);
      OF_ASSIGN(const bool here, pass.run(*graph, context));
      changed = changed || here;
    }
    return changed;
  }

  // The first graph that is not among `seen`, outermost first; null when there is none.
  Graph* next(const std::set<const Graph*>& seen) {
    for (Graph* graph : model_.graphs()) {
      if (!seen.contains(graph)) return graph;
    }
    return nullptr;
  }

  // What the pass says it did is what it did, and the graph still holds together.
  Status check_contract(bool said_changed) {
    const std::uint64_t after = fingerprint(model_);
    if (said_changed != (after != before_)) {
      return fail(Code::kInternal, said_changed ? "the pass said it changed the model, but it did not"
                                                : "the pass changed the model, but said it did not");
    }
    before_ = after;
    if (!said_changed) return {};
    if (const Status verified = verify(model_); !verified) {
      return fail(Code::kInternal, "the pass left a broken graph: " + verified.error().message);
    }
    for (Graph* graph : model_.graphs()) graph->purge();
    return {};
  }

  void keep_remarks(PassContext& context, const Operators& operators) {
    for (Remark& remark : context.take_remarks()) {
      const auto found = operators.find(remark.node);
      if (found != operators.end()) remark.op_type = found->second;
      result_.remarks.push_back(std::move(remark));
    }
  }

  // ONNX Runtime refuses a graph with two nodes of one name.
  void tell_nodes_apart() {
    for (Graph* graph : model_.graphs()) {
      std::unordered_set<std::string> taken;
      for (const Node* node : graph->nodes()) taken.insert(node->name);
      std::unordered_set<std::string> seen;
      for (Node* node : graph->nodes()) {
        if (node->name.empty() || seen.insert(node->name).second) continue;
        std::string fresh;
        for (int i = 2; fresh.empty() || !taken.insert(fresh).second; ++i) fresh = fmt::format("{}_{}", node->name, i);
        node->name = fresh;
        seen.insert(fresh);
      }
    }
  }

  // Schema check and shape inference go through protobuf: once per top-level step, not per pass of a group.
  Status refresh_types() {
    if (!types_stale_) return {};
    types_stale_ = false;
    if (schemas_hold_) {
      if (const Status checked = check_model(model_); !checked) {
        return fail(Code::kInternal, fmt::format("after {} (pass {} of {}) the model breaks the ONNX schemas: {}",
                                                 result_.runs.back().pass, index_, count_, checked.error().message));
      }
    }
    OF_TRY(infer_shapes(model_));
    before_ = fingerprint(model_);
    return {};
  }

  Model& model_;
  const PipelineOptions& options_;
  PipelineResult result_;
  std::unique_ptr<Model> reference_;  // before the first lossy pass that changed something
  int index_ = 0, count_ = 0;
  std::uint64_t before_ = 0;
  bool types_stale_ = false, schemas_hold_ = false;
};

}  // namespace

Result<PipelineResult> run_pipeline(Model& model, const Recipe& recipe, const PipelineOptions& options) {
  return Pipeline(model, options).run(recipe);
}

}  // namespace onnxfold
