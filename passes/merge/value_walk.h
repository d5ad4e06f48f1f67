// Values of a model on a data set, asked for from front to back: only what lies between the last ones and the next
// runs, and only what is still needed stays.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "analysis/calibrate/part.h"

namespace onnxfold {

class ValueWalk {
 public:
  // Both must outlive this. Weights may change meanwhile behind all values that were asked for.
  ValueWalk(const Model& model, const Dataset& data) : model_(model), data_(data) {}

  // By batch. `later`: what will be asked for from here on, again or for the first time. Of all other values those stay
  // from which these can be computed. Errors: those of the executor, invalid_argument for an unknown name.
  Result<const std::vector<Taps>*> at(const std::vector<std::string>& values, const std::set<std::string>& later);
  // Weights in front of values have changed: of all...
  void restart() { known_ = {}; }
  // ...or of all but these, which were asked for last.
  void keep_only(const std::vector<std::string>& values);

 private:
  Status forget_all_but(const std::vector<std::string>& values, const std::set<std::string>& later);

  const Model& model_;
  const Dataset& data_;
  Recording known_;
};

}  // namespace onnxfold
