// StructureNote: why a part of a graph was not understood.
#pragma once

#include <string>

namespace onnxfold {

struct StructureNote {
  std::string node;    // label of the node where understanding ended
  std::string reason;  // "softmax does not feed a product"
};

}  // namespace onnxfold
