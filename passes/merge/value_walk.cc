#include "passes/merge/value_walk.h"

#include <algorithm>

namespace onnxfold {
namespace {

// A branch begins at most so many recorded values before its end; older ones would be computed again.
constexpr std::size_t kWindow = 8;

}  // namespace

void ValueWalk::restart() {
  known_ = {};
  order_.clear();
}

void ValueWalk::keep_only(const std::vector<std::string>& values) {
  std::deque<std::string> kept;
  for (const std::string& name : order_) {
    if (std::find(values.begin(), values.end(), name) != values.end()) {
      kept.push_back(name);
    } else {
      known_.forget(name);
    }
  }
  order_ = std::move(kept);
  if (order_.empty()) known_ = {};
}

Result<const std::vector<Taps>*> ValueWalk::at(const std::vector<std::string>& values) {
  std::vector<std::string> missing;
  for (const std::string& value : values) {
    if (std::find(order_.begin(), order_.end(), value) == order_.end()) missing.push_back(value);
  }
  if (missing.empty()) return &known_.batches;
  if (known_.batches.empty()) {
    OF_ASSIGN(const auto part, model_part(model_, {}, missing));
    OF_ASSIGN(known_, record(*part, data_, missing));
  } else {
    OF_ASSIGN(Recording fresh, replay(model_, data_, known_, missing));
    known_.merge(std::move(fresh));
  }
  order_.insert(order_.end(), missing.begin(), missing.end());
  while (order_.size() > kWindow + values.size()) {
    const bool wanted = std::find(values.begin(), values.end(), order_.front()) != values.end();
    if (wanted) break;
    known_.forget(order_.front());
    order_.pop_front();
  }
  return &known_.batches;
}

}  // namespace onnxfold
