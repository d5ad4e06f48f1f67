// Which columns of a Linear hold the heads of a projection.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/structure/attention.h"

namespace onnxfold {

// Column of each element of each head, head by head; of every `head_step`-th head from `first_head` on. As long as
// heads * width where all are taken.
std::vector<std::int64_t> head_columns(const Projection& projection, std::int64_t first_head = 0,
                                       std::int64_t head_step = 1);

}  // namespace onnxfold
