#include "passes/tie/stacked_type.h"

namespace onnxfold {

Type agreed(Type type, const Type& other) {
  if (type == other) return type;
  if (!type.is_tensor() || !other.is_tensor()) return Type::none();
  if (!type.shape || !other.shape || type.shape->size() != other.shape->size()) {
    type.shape.reset();
    return type;
  }
  for (std::size_t i = 0; i < type.shape->size(); ++i) {
    if ((*type.shape)[i] != (*other.shape)[i]) (*type.shape)[i] = Dim{};
  }
  return type;
}

Type with_first_axis(const Type& type, std::size_t size) {
  Type made = type;
  if (made.shape) made.shape->insert(made.shape->begin(), Dim{static_cast<std::int64_t>(size), "", ""});
  return made;
}

Type without_first_axis(const Type& type) {
  Type made = type;
  if (made.shape) made.shape->erase(made.shape->begin());
  return made;
}

}  // namespace onnxfold
