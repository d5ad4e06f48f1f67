// Copies between two n-dimensional layouts, in blocks as long as the layouts allow.
#pragma once

#include "exec/array.h"

namespace onnxfold {

// out[i . out_strides] = in[i . in_strides] for every index i below `dims`. Strides are in elements, may be 0 (repeat)
// on the input side and negative; `out` and `in` point at the element of index 0. Distinct indices REQUIRE distinct
// outputs.
void strided_copy(Storage storage, const Dims& dims, const void* in, const Dims& in_strides, void* out,
                  const Dims& out_strides);

// Address of element `offset` in an array of this storage.
const void* element_at(Storage storage, const void* data, std::int64_t offset);
void* element_at(Storage storage, void* data, std::int64_t offset);

// Copies `count` neighbouring elements.
void copy_elements(Storage storage, const void* in, std::int64_t in_offset, void* out, std::int64_t out_offset,
                   std::int64_t count);

}  // namespace onnxfold
