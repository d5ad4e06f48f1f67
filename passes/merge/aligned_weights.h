// The weights of a model while they are carried over into the anchor's neurons.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "analysis/align/axis_map.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/linear.h"
#include "ir/model.h"

namespace onnxfold {

// The neurons along `axis` as columns: [all other indices, neurons].
Matrix columns_along(const Weight& weight, int axis);

class AlignedWeights {
 public:
  AlignedWeights() = default;
  // `kept`: constants of the anchor that stay its own.
  AlignedWeights(const Correspondence& map, const std::vector<const Value*>& kept);

  // What the model has where the anchor has `constant`. Errors: those of weight_of.
  Result<Weight> own(const Value& constant) const;
  // Maps along axes. A constant that several nodes read and map differently becomes the mean of what they make of it.
  Status map(const Value& constant, int axis, const Matrix& map);
  Status map(const Value& constant, const std::vector<std::pair<int, Matrix>>& maps);
  // Weight and bias of the anchor's Linear from [in + 1, out], the bias below; in its own spelling.
  Status set(const Linear& linear, const Matrix& weight_and_bias);

  // The anchor's graph with all of these; what was never mapped is the model's own. Errors: invalid_argument, when
  // that has other dimensions.
  Result<std::unique_ptr<Model>> written(const Model& anchor) const;
  std::vector<std::string> notes() const;

 private:
  Status add(const Value& constant, Weight weight);

  struct Sum {
    Weight weight;
    int count = 0;
    bool differs = false;
  };
  std::vector<ConstantPair> pairs_;
  std::map<const Value*, const Value*> own_;  // the anchor's constant -> the model's
  std::map<const Value*, bool> kept_;
  std::map<const Value*, Sum> made_;
};

}  // namespace onnxfold
