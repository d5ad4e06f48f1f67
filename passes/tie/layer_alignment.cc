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

Result<AlignedUnits> align_looped(Model& model, const std::vector<LayerStack>& stacks, Looping looping,
                                  std::size_t loops, std::string_view how) {
  AlignedUnits count;
  for (const LayerStack& stack : stacks) {
    const auto table = looped_layers(looping, stack.blocks.size(), loops);
    for (std::size_t unique = 0; table && unique < stack.blocks.size() / loops; ++unique) {
      std::vector<std::size_t> tied;
      for (std::size_t layer = 0; layer < stack.blocks.size(); ++layer) {
        if ((*table)[layer] == unique) tied.push_back(stack.blocks[layer]);
      }
      OF_ASSIGN(const AlignedUnits aligned, align_layers(model, tied, how));
      count.neurons += aligned.neurons;
      count.heads += aligned.heads;
    }
  }
  return count;
}

Result<std::unique_ptr<Model>> with_aligned_layers(const Model& model, std::string_view how) {
  std::unique_ptr<Model> aligned = model.clone();
  for (const LayerStack& stack : layer_stacks(aligned->graph(), 0, 0)) {
    OF_TRY(align_layers(*aligned, stack.blocks, how));
  }
  return aligned;
}

}  // namespace onnxfold
