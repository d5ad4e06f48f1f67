#include "passes/pass.h"

namespace onnxfold {

double tolerance(Exactness exactness, bool float64) {
  switch (exactness) {
    case Exactness::kExact:
      return 0;
    case Exactness::kRounding:
      return float64 ? 1e-12 : 1e-5;
    case Exactness::kLossy:
      return 1;
  }
  return 0;
}

void PassContext::applied(std::string node, std::string what, std::int64_t bytes_before, std::int64_t bytes_after) {
  remarks_.push_back({Remark::Kind::kApplied, pass_, std::move(node), std::move(what), bytes_before, bytes_after, {}});
}

void PassContext::skipped(std::string node, std::string why, std::int64_t weight_bytes) {
  remarks_.push_back({Remark::Kind::kSkipped, pass_, std::move(node), std::move(why), weight_bytes, 0, {}});
}

void PassContext::note(std::string node, std::string text) {
  remarks_.push_back({Remark::Kind::kNote, pass_, std::move(node), std::move(text), 0, 0, {}});
}

}  // namespace onnxfold
