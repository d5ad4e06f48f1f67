#include "analysis/calibrate/labels.h"

namespace onnxfold {

bool named_like_labels(std::string_view name) {
  return name == "label" || name == "labels" || name == "target" || name == "targets";
}

}  // namespace onnxfold
