// One .npy array in memory (numpy.lib.format 1.0 to 3.0).
#pragma once

#include "ir/tensor.h"

namespace onnxfold {

// Errors: corrupt (bad magic, header or size), unsupported (object, void and other types with no ONNX element type).
Result<Tensor> parse_npy(const Buffer& data);
// Little-endian, C order. Types numpy does not know become float32 or int8/uint8.
Result<Buffer> format_npy(const Tensor& tensor);

}  // namespace onnxfold
