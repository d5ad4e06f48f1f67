// Writes tensors at their places in a file: several at a time, within a memory budget.
#pragma once

#include <utility>
#include <vector>

#include "formats/onnx/onnx_file.h"
#include "formats/pending_files.h"

namespace onnxfold {

using PlacedTensors = std::vector<std::pair<Tensor, std::int64_t>>;  // with offsets, in file order

// Makes `file` `size` bytes long and writes every tensor. What lies between the tensors stays zero.
// Errors: whatever making a tensor reports, io, resource.
Status write_tensors(const PlacedTensors& tensors, std::int64_t size, const SaveOptions& options, PendingFile& file);

}  // namespace onnxfold
