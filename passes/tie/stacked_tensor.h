// Tensors joined along a new first axis, and one of them taken out again. Nothing is read before bytes are asked for.
#pragma once

#include <vector>

#include "ir/tensor.h"

namespace onnxfold {

// [parts.size(), dims...] of parts of equal type and shape, made when its bytes are read. REQUIRES: no strings, and
// parts of whole bytes.
Tensor stacked(const std::vector<Tensor>& parts);

// Item `index` of the first axis: a view, which loads the whole and gives back its piece (a region of the file where
// the whole is one). REQUIRES: 0 <= index < dims()[0], no strings, items of whole bytes.
Tensor item_of(const Tensor& whole, std::int64_t index);

// Are items of the first axis whole bytes, so that they can be taken out?
bool has_items(const Tensor& whole);

}  // namespace onnxfold
