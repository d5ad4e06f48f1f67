// f(x) => the body of the model-local function f
//
// Calls inside calls are followed until none is left. A function that imports another opset of a domain than the model
// does stays, with a remark: its body would mean something else there. Domains that only functions import are added to
// the model. Exact.
#include "ir/instantiate.h"
#include "passes/inline_graph.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr int kDeepestCall = 64;
constexpr std::size_t kMostNodes = 4'000'000;  // a chain of functions that call each other twice grows as 2^n

// The domain whose version differs, or empty.
std::string clashing_domain(const OpsetImports& function, const OpsetImports& model) {
  for (const auto& [domain, version] : function) {
    const auto found = model.find(domain);
    if (found != model.end() && found->second != version) return domain.empty() ? "ai.onnx" : domain;
  }
  return {};
}

class InlineFunctions final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.model().functions.empty()) return false;
    bool changed = false;
    for (int depth = 0; depth < kDeepestCall; ++depth) {
      OF_ASSIGN(const bool here, inline_calls(graph, context));
      if (!here) return changed;
      changed = true;
    }
    context.note(graph.name, "function calls are nested too deeply to inline them all");
    return changed;
  }

 private:
  static Result<bool> inline_calls(Graph& graph, PassContext& context) {
    Model& model = context.model();
    bool changed = false;
    for (Node* node : graph.nodes()) {
      const Function* function = find_function(model, *node);
      if (function == nullptr) continue;
      if (const std::string domain = clashing_domain(function->opset_imports, model.opset_imports); !domain.empty()) {
        context.skipped(node->label(), "function " + function->name + " imports another opset of " + domain);
        continue;
      }
      if (graph.node_count() > kMostNodes) {
        return fail(Code::kResource, "inlining functions would make more than 4 million nodes");
      }
      OF_ASSIGN(const std::unique_ptr<Graph> body, instantiate(*function, *node));
      for (const auto& [domain, version] : function->opset_imports) model.opset_imports.emplace(domain, version);
      ValueMap map;
      for (std::size_t i = 0; i < body->inputs().size(); ++i) map[body->inputs()[i]] = node->input(i);
      const std::vector<Value*> results = inline_graph(graph, *body, *node, map);
      replace_by(graph, *node, results);
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_inline_functions(const PassOptions&) { return std::make_unique<InlineFunctions>(); }

}  // namespace onnxfold
