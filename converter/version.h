// The release this library belongs to, e.g. "0.1.0".
#pragma once

#include <string_view>

namespace onnxfold {

std::string_view version();

}  // namespace onnxfold
