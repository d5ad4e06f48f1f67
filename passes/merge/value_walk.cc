#include "passes/merge/value_walk.h"

#include <algorithm>

namespace onnxfold {

void ValueWalk::keep_only(const std::vector<std::string>& values) {
  for (const std::string& name : known_.names()) {
    if (std::find(values.begin(), values.end(), name) == values.end()) known_.forget(name);
  }
  if (known_.names().empty()) restart();
}

Result<const std::vector<Taps>*> ValueWalk::at(const std::vector<std::string>& values,
                                               const std::set<std::string>& later) {
  const std::vector<std::string> known = known_.names();
  std::vector<std::string> missing;
  for (const std::string& value : values) {
    if (std::find(known.begin(), known.end(), value) == known.end()) missing.push_back(value);
  }
  if (missing.empty()) return &known_.batches;
  if (known_.batches.empty()) {
    OF_ASSIGN(const auto part, model_part(model_, {}, missing));
    OF_ASSIGN(known_, record(*part, data_, missing));
  } else {
    OF_ASSIGN(Recording fresh, replay(model_, data_, known_, missing));
    known_.merge(std::move(fresh));
  }
  OF_TRY(forget_all_but(values, later));
  return &known_.batches;
}

// A known value is needed where something later is computed from it without passing through another known value: those
// are the inputs of the part that lies between.
Status ValueWalk::forget_all_but(const std::vector<std::string>& values, const std::set<std::string>& later) {
  const std::vector<std::string> known = known_.names();
  std::set<std::string> needed(values.begin(), values.end());
  std::vector<std::string> ahead;
  for (const std::string& name : later) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      ahead.push_back(name);
    } else {
      needed.insert(name);
    }
  }
  OF_ASSIGN(const auto part, model_part(model_, known, ahead));
  for (const Value* input : part->graph().inputs()) needed.insert(input->name());
  for (const std::string& name : known) {
    if (needed.count(name) == 0) known_.forget(name);
  }
  return {};
}

}  // namespace onnxfold
