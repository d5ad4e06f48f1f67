// How a graph will be run: steps in topological order over numbered slots. Internal to the executor.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "exec/kernel.h"
#include "ir/model.h"

namespace onnxfold {

struct GraphPlan;

// A function body made concrete for one call, and its plan. The plan points into the graph, the graph into the
// function.
struct Expansion {
  std::unique_ptr<Function> function;
  std::unique_ptr<Graph> graph;
  std::unique_ptr<GraphPlan> plan;
};

struct SubgraphPlan {
  const Graph* graph = nullptr;
  std::unique_ptr<GraphPlan> plan;
  std::vector<int> captured;  // slots of the enclosing plan, in the order of plan->captures
};

// Bodies of an operator whose expansion depends on input types that are only known when it runs.
struct LateBodies {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<const Expansion>> by_types;
};

struct Step {
  const Node* node = nullptr;
  std::int64_t opset = 0;
  const KernelRow* kernel = nullptr;  // else `body`, else `late`
  std::unique_ptr<Expansion> body;
  std::unique_ptr<LateBodies> late;
  int depth = 0;                     // of nested graphs and function calls
  std::vector<int> inputs, outputs;  // slots; -1 where omitted
  std::vector<bool> last_read;       // per input: nobody reads its slot later, so the kernel may have it
  std::vector<SubgraphPlan> subgraphs;
  std::vector<int> frees;  // slots nobody reads after this step
};

struct GraphPlan {
  std::vector<Step> steps;
  std::vector<int> inputs, outputs;                    // slots
  std::vector<std::pair<const Value*, int>> captures;  // values of enclosing graphs and their slots here
  std::vector<const Value*> constants;                 // by slot: the constant it holds, or null
  std::unordered_map<const Value*, int> slot_of;
  int slots() const { return static_cast<int>(constants.size()); }
};

class Planner {
 public:
  // `model` holds the functions that nodes may call; may be null.
  explicit Planner(const Model* model) : model_(model) {}

  // Errors: unsupported when nesting is too deep; whatever expanding a function body reports. Operators that cannot run
  // are collected in missing() instead, so that all of them can be named at once.
  Result<std::unique_ptr<GraphPlan>> plan(const Graph& graph, int depth = 0);
  // A plan with one step whose inputs and outputs are those of the node.
  Result<std::unique_ptr<GraphPlan>> plan_single(const Node& node);
  Result<std::unique_ptr<Expansion>> expand(const Function& function, const Node& call, int depth);
  const std::set<std::string>& missing() const { return missing_; }
  // Errors: unsupported, with all that is missing.
  Status refuse_missing() const;

 private:
  Result<Step> make_step(GraphPlan& plan, const Graph& graph, const Node& node, int depth);
  Status choose_implementation(Step& step);

  const Model* model_;
  std::set<std::string> missing_;
  std::int64_t steps_ = 0;  // planned so far, function bodies included
};

// Operator set version for choosing the kernel of a node: 1 where the model imports none.
std::int64_t effective_opset(const Node& node, const Model* model);
// "Softmax (opset 13)" or "com.example.Foo (opset 1)".
std::string operator_text(const Node& node, std::int64_t opset);

}  // namespace onnxfold
