// The bytes of an ONNX file with all data inline, laid out without holding its large tensors.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "formats/onnx/data_writer.h"

namespace onnxfold::onnx_proto {

struct InlineFile {
  std::vector<std::pair<std::int64_t, std::string>> pieces;  // offset and bytes of everything but large tensors
  PlacedTensors tensors;                                     // where the raw data of large tensors goes
  std::int64_t size = 0;
};

// Large initializers of the main graph are placed; everything else is serialized. Same model, same bytes.
// `sizes_only`: deferred tensors are not made; zeros stand for the small ones.
Result<InlineFile> lay_out_inline(const Model& model, const ValueNames* described, bool sizes_only = false);

}  // namespace onnxfold::onnx_proto
