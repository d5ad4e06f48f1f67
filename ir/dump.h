// dump(): deterministic text of a model, complete for structure; tensors by type, shape and hash.
#pragma once

#include <cstdint>
#include <string>

#include "ir/model.h"

namespace onnxfold {

enum class TensorText {
  kContent,   // content hash (reads every tensor once; cached)
  kIdentity,  // address of the shared tensor: free, valid within one process; for the "changed" check
  kShape,     // type and shape only
};

std::string dump(const Model& model, TensorText tensors = TensorText::kContent);
// 64-bit hash of dump(model, kIdentity).
std::uint64_t fingerprint(const Model& model);

}  // namespace onnxfold
