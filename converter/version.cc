#include "converter/version.h"

namespace onnxfold {

std::string_view version() { return ONNXFOLD_VERSION; }

}  // namespace onnxfold
