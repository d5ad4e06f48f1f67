// Takes units out of a copy of a model, one after the other, and heals each gap where that helps on the data.
//
// What runs again after a change is only what lies behind it: the values of the stream in front are kept.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "analysis/depth/block_scores.h"
#include "passes/depth/heal.h"
#include "passes/depth/remove_unit.h"

namespace onnxfold {

using HealFunction = Result<HealNotes> (*)(const Gap&);

class BlockRemover {
 public:
  // Runs the model once. A null `heal` leaves gaps as they are. The data must outlive this. Errors: the executor's.
  static Result<std::unique_ptr<BlockRemover>> create(const Model& model, const Dataset& data, StreamUnit::Part part,
                                                      HealFunction heal);

  const Model& student() const { return *student_; }
  const Model& teacher() const { return *teacher_; }
  const DamageMeter& judge() const { return *judge_; }
  double damage() const { return damage_; }  // of the student on the data
  // The student's stream on the first batches of the data. REQUIRES that `few` is those batches and outlives it.
  StreamRecord record(const Dataset& few) const;
  // The teacher's outputs on them.
  Recording teacher_outputs(const Dataset& few) const;

  struct Removed {
    RemovedInterface interface;
    std::int64_t bytes_before = 0, bytes_after = 0;  // of the constants
    std::string note;                                // how healing went; empty without
  };
  // The unit in front of this value of the stream goes. Errors: unsupported, when there is none.
  Result<Removed> remove(const std::string& after);

 private:
  BlockRemover() = default;
  Status measure_plain(const std::string& stream);
  Result<std::string> heal(HealFunction how, const std::string& stream, const std::string& wanted,
                           const std::string& front, const Recording& before);

  const Dataset* data_ = nullptr;
  StreamUnit::Part part_ = StreamUnit::Part::kBlock;
  HealFunction heal_ = nullptr;
  std::unique_ptr<Model> teacher_, student_;
  Recording teacher_values_, values_;  // the streams
  std::optional<DamageMeter> judge_;
  double damage_ = 0;
  std::map<std::string, std::string> gaps_;  // the student's stream there, the teacher's that it stands for
};

}  // namespace onnxfold
