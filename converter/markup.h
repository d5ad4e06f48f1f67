// Escaping of text for XML and HTML reports.
#pragma once

#include <string>
#include <string_view>

namespace onnxfold {

// & < > " as entities; control characters that XML 1.0 forbids become '?'.
std::string escape_markup(std::string_view text);

}  // namespace onnxfold
