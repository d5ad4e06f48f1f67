// Values of a model on a data set, asked for from front to back: only what lies between the last ones and the next
// runs.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "analysis/calibrate/part.h"

namespace onnxfold {

class ValueWalk {
 public:
  // Both must outlive this. Weights may change meanwhile behind all values that were asked for.
  ValueWalk(const Model& model, const Dataset& data) : model_(model), data_(data) {}

  // By batch. Errors: those of the executor, invalid_argument for an unknown name.
  Result<const std::vector<Taps>*> at(const std::vector<std::string>& values);
  // Weights in front of values have changed: of all...
  void restart();
  // ...or of all but these, which were asked for last.
  void keep_only(const std::vector<std::string>& values);

 private:
  const Model& model_;
  const Dataset& data_;
  Recording known_;
  std::deque<std::string> order_;  // of known_, oldest first
};

}  // namespace onnxfold
