// A walk through a part of a model, once, on all batches: values are handed over as they pass, weights change on the
// way.
//
// What lies between recorded values and the wanted ones runs once, however many values are asked for and weights
// changed (exec/stepper); no value is held longer than its readers need it, but those that were asked for.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "analysis/calibrate/part.h"
#include "exec/stepper.h"

namespace onnxfold {

class ModelWalk {
 public:
  // From the values in `known` (and the data) to `values`; a name stands there once for each time that pass() is called
  // with it. Errors: invalid_argument for an unknown name; the executor's.
  static Result<std::unique_ptr<ModelWalk>> create(const Model& model, const Dataset& data, const Recording& known,
                                                   const std::vector<std::string>& values);

  // Goes on until the value was computed, and returns it by batch. Others that were announced and lie before it are
  // kept for when they are asked for.
  Result<std::vector<Datum>> pass(const std::string& value);

  // Stops before the node that makes this value.
  Status stop_before(const std::string& value);
  // A value where the walk stands, by batch; one that was not computed yet is computed on the side. REQUIRES that a
  // node still to come reads it, or that it is not computed yet.
  Result<std::vector<Datum>> here(const std::string& value) const;
  // From here on every batch reads `datum` as the operand `input` of the node that makes `value`.
  Status replace_operand(const std::string& value, std::size_t input, const Datum& datum);

 private:
  ModelWalk() = default;
  // The first node that reads the value; null: none does, it is an output.
  const Node* first_reader(const Value& value) const;
  Status keep(const std::string& value);

  std::unique_ptr<Model> part_;
  std::unique_ptr<Stepper> stepper_;
  std::map<std::string, std::vector<Datum>> known_;  // recorded ones that were announced
  std::vector<std::string> coming_;                  // announced for pass(), in the order in which they can be had
  std::map<std::string, int> wanted_;                // how often
  std::map<std::string, std::vector<Datum>> kept_;
};

}  // namespace onnxfold
