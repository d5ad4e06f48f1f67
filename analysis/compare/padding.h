// Positions of outputs that are padding: what a model says there is used by nobody, so no measure counts it.
#pragma once

#include "analysis/calibrate/statistics.h"

namespace onnxfold {

// The mask of the data for outputs [batch, length, ...]: row_mask(), but where the model has a decoder of its own
// ("decoder_input_ids") that of the decoder ("decoder_attention_mask") and never the encoder's. Empty: nothing is
// padding (all ones, no mask, a mask of another rank).
RowMask output_padding(const Model& model, const Feeds& feeds);

// Does the mask speak of this output? Only of [batch, length, channels] with its own batch and length: caches
// [batch, heads, length, size] and class scores [batch, classes] may have the same sizes by chance.
bool covers(const RowMask& mask, const Array& output);

}  // namespace onnxfold
