// NumPy .npz and .npy files (numpy format 1.0 to 3.0), for data in and results out.
#pragma once

#include <map>
#include <string>

#include "ir/tensor.h"

namespace onnxfold {

// All arrays of an .npz by name. C and Fortran order, little and big endian, bool, integers, floats, byte and unicode
// strings. Errors: io, corrupt (naming the array), unsupported (object arrays, pickles, void types).
Result<std::map<std::string, Tensor>> load_npz(const std::string& path);
// Writes atomically. bfloat16, float8 and sub-byte types are stored as float32 or the next integer type.
Status save_npz(const std::string& path, const std::map<std::string, Tensor>& arrays);

}  // namespace onnxfold
