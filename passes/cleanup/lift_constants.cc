// Constant => initializer.
//
// The value keeps its name. A Constant that makes a graph output stays: some consumers refuse initializers there. A
// Constant with a sparse value stays too. Exact.
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class LiftConstants final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Constant")) {
      Value* output = node->output();
      if (output == nullptr || output->constant() == nullptr || output->is_graph_output()) continue;
      const std::string name = output->name();
      if (!output->uses().empty()) {
        Value* lifted = add_constant(graph, *output->constant(), name);
        lifted->doc_string = output->doc_string;
        lifted->quantization = output->quantization;
        graph.replace_all_uses(*output, *lifted);
        graph.erase(*node);
        graph.rename(*lifted, name);
      } else {
        graph.erase(*node);
      }
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_lift_constants(const PassOptions&) { return std::make_unique<LiftConstants>(); }

}  // namespace onnxfold
