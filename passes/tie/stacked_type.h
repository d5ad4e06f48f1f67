// Types of values that several blocks have in common, and of what is stacked along a new first axis.
#pragma once

#include <cstddef>

#include "ir/graph.h"

namespace onnxfold {

// What is known of a value in both of two blocks.
Type agreed(Type type, const Type& other);
// Of `size` such values, stacked; and of one of them. A shape that is not known stays so.
Type with_first_axis(const Type& type, std::size_t size);
Type without_first_axis(const Type& type);

}  // namespace onnxfold
