// Units of equal layers put in one order, so that their weights can be averaged or laid on a line.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "ir/model.h"
#include "passes/tie/layer_stack.h"
#include "passes/tie/loop_plan.h"

namespace onnxfold {

// Choices of an option: which units are aligned. "rotate": all, and heads are turned inside too.
inline constexpr char kAlignChoices[] = "no|neurons|heads|all|rotate";

struct AlignedUnits {
  int neurons = 0, heads = 0;  // sublayers that changed
};

// Aligns the layers of these blocks, each to the one before (neuron_order.h, head_order.h). `how` is one of the
// choices. Exact but for the rounding of rotations. Errors: those of reading weights.
Result<AlignedUnits> align_layers(Model& model, const std::vector<std::size_t>& blocks, std::string_view how);

// The same for the layers of each stack that a looping ties. Stacks that the loops do not divide are left alone.
Result<AlignedUnits> align_looped(Model& model, const std::vector<LayerStack>& stacks, Looping looping,
                                  std::size_t loops, std::string_view how);
// A copy of the model with the units of all its equal layers in order. Errors: those of reading weights.
Result<std::unique_ptr<Model>> with_aligned_layers(const Model& model, std::string_view how);

}  // namespace onnxfold
