#include "analysis/structure/head_columns.h"

namespace onnxfold {

std::vector<std::int64_t> head_columns(const Projection& projection, std::int64_t first_head, std::int64_t head_step) {
  std::vector<std::int64_t> columns;
  for (std::int64_t head = first_head; head < projection.heads; head += head_step) {
    for (std::int64_t element = 0; element < projection.width; ++element) {
      columns.push_back(projection.offset + head * projection.head_stride + element * projection.element_stride);
    }
  }
  return columns;
}

}  // namespace onnxfold
