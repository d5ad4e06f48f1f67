// How much each unit of the residual stream matters, measured on data.
//
// The stream between the units is recorded once; a unit is taken out by running what lies behind it on the recorded
// values in front of it (half of a forward pass on average). Scores, lower = less needed: loss or KL of the model
// without the unit (SLEB, arXiv 2402.09025); macro influence, 1 - cos of the final hidden states with and without it
// (FuseGPT, arXiv 2411.14507); block influence, 1 - cos of its input and output (ShortGPT, arXiv 2403.03853); angular
// distance of the ends of a window (arXiv 2403.17887).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/compare/damage.h"
#include "analysis/depth/bypass.h"

namespace onnxfold {

// Recorded values that do not depend on anything computed after `value`, itself included. REQUIRES that names are those
// of the model.
Recording recorded_up_to(const Model& model, const Recording& recorded, const Value& value);

// A model with its blocks and the values of its stream on data.
class StreamRecord {
 public:
  // Records the model's outputs and the values before and after every unit of `part` (and of whole blocks). The model
  // and the data must outlive the record. Errors: the executor's.
  static Result<StreamRecord> create(const Model& model, const Dataset& data, StreamUnit::Part part);

  // The same from a recording that is there already: `recorded` holds the values that create() would record.
  static StreamRecord adopt(const Model& model, const Dataset& data, StreamUnit::Part part, Recording recorded);
  // Names of those values.
  static std::vector<std::string> values(const Model& model, StreamUnit::Part part);

  const BlockView& view() const { return view_; }
  const std::vector<StreamUnit>& units() const { return units_; }
  const std::vector<StructureNote>& notes() const { return notes_; }
  const Recording& recorded() const { return recorded_; }
  const std::vector<RowMask>& masks() const { return masks_; }
  const Model& model() const { return *model_; }
  // Channel axis of a block's stream: 1 for convolutions, else the last.
  int channel_axis(std::size_t block) const;
  // The stream's last value: output of the last block.
  std::string final_value() const;

  // Values of the model without these units: `values` and the model's outputs (those that remain).
  Result<Recording> without(const std::vector<StreamUnit>& gone, const std::vector<std::string>& values = {}) const;
  // Mean over rows of the cosine of two recorded values, and of its arc in units of pi.
  struct Angle {
    double cosine = 1, arc = 0;
  };
  Result<Angle> angle(const Recording& a, const std::string& value_a, const Recording& b, const std::string& value_b,
                      int axis) const;

 private:
  const Model* model_ = nullptr;
  const Dataset* data_ = nullptr;
  BlockView view_;
  std::vector<StreamUnit> units_;
  std::vector<StructureNote> notes_;
  Recording recorded_;
  std::vector<RowMask> masks_;
};

enum class UnitScore { kDamage, kMacro, kInfluence };
// One score per unit of the record (HUGE_VAL where `candidate` is false). kDamage needs the meter.
Result<std::vector<double>> score_units(const StreamRecord& record, UnitScore score, const DamageMeter* meter,
                                        const std::vector<char>& candidate);
// First index of the window of `count` consecutive units (of one stream, all candidates) whose ends are closest in
// angle; nullopt when there is none. `arcs`, if given: the distance of every window, HUGE_VAL where impossible.
Result<std::optional<std::size_t>> closest_window(const StreamRecord& record, std::size_t count,
                                                  const std::vector<char>& candidate,
                                                  std::vector<double>* arcs = nullptr);

}  // namespace onnxfold
