// Units of equal layers put in one order, so that their weights can be averaged or laid on a line.
#pragma once

#include <string_view>
#include <vector>

#include "ir/model.h"

namespace onnxfold {

// Choices of an option: which units are aligned. "rotate": all, and heads are turned inside too.
inline constexpr char kAlignChoices[] = "no|neurons|heads|all|rotate";

struct AlignedUnits {
  int neurons = 0, heads = 0;  // sublayers that changed
};

// Aligns the layers of these blocks, each to the one before (neuron_order.h, head_order.h). `how` is one of the
// choices. Exact but for the rounding of rotations. Errors: those of reading weights.
Result<AlignedUnits> align_layers(Model& model, const std::vector<std::size_t>& blocks, std::string_view how);

}  // namespace onnxfold
