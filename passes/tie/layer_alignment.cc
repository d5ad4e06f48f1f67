#include "passes/tie/layer_alignment.h"

#include "passes/tie/head_order.h"
#include "passes/tie/neuron_order.h"

namespace onnxfold {

Result<AlignedUnits> align_layers(Model& model, const std::vector<std::size_t>& blocks, std::string_view how) {
  AlignedUnits aligned;
  const bool all = how == "all" || how == "rotate";
  if (all || how == "neurons") {
    OF_ASSIGN(aligned.neurons, align_neurons(model.graph(), blocks));
  }
  if (all || how == "heads") {
    OF_ASSIGN(aligned.heads, align_heads(model, blocks, how == "rotate"));
  }
  return aligned;
}

}  // namespace onnxfold
