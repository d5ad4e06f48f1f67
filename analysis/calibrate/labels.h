// Arrays of a data file that are meant as labels.
#pragma once

#include <string_view>

namespace onnxfold {

// "label", "labels", "target" or "targets": one a sample, or a mistake. Arrays of other names may be anything.
bool named_like_labels(std::string_view name);

}  // namespace onnxfold
