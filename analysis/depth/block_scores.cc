#include "analysis/depth/block_scores.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace onnxfold {
namespace {

std::vector<std::string> output_names(const Model& model) {
  std::vector<std::string> names;
  for (const Value* output : model.graph().outputs()) names.push_back(output->name());
  return names;
}

// Recorded values that cannot depend on `value`: made earlier.
Recording recorded_before(const Model& model, const Recording& recorded, const Value& value) {
  Recording before = recorded;
  const Node* producer = value.producer();
  for (const std::string& name : recorded.names()) {
    const Value* other = model.graph().find(name);
    const bool earlier = other != nullptr && other != &value &&
                         (other->producer() == nullptr || model.graph().before(*other->producer(), *producer));
    if (!earlier) before.forget(name);
  }
  return before;
}

}  // namespace

Recording recorded_up_to(const Model& model, const Recording& recorded, const Value& value) {
  Recording kept = recorded;
  for (const std::string& name : recorded.names()) {
    const Value* other = model.graph().find(name);
    const bool early = other != nullptr &&
                       (other == &value || other->producer() == nullptr ||
                        (value.producer() != nullptr && model.graph().before(*other->producer(), *value.producer())));
    if (!early) kept.forget(name);
  }
  return kept;
}

std::vector<std::string> StreamRecord::values(const Model& model, StreamUnit::Part part) {
  const BlockView view = find_blocks(model.graph());
  std::set<std::string> values;
  for (const StreamUnit& unit : removable_units(model.graph(), view, part)) {
    values.insert({unit.before->name(), unit.after->name()});
  }
  for (const Block& block : view.blocks) {
    if (block.input != nullptr) values.insert(block.input->name());
    if (block.output != nullptr) values.insert(block.output->name());
  }
  for (const std::string& name : output_names(model)) values.insert(name);
  return {values.begin(), values.end()};
}

StreamRecord StreamRecord::adopt(const Model& model, const Dataset& data, StreamUnit::Part part, Recording recorded) {
  StreamRecord record;
  record.model_ = &model;
  record.data_ = &data;
  record.view_ = find_blocks(model.graph());
  record.units_ = removable_units(model.graph(), record.view_, part, &record.notes_);
  record.recorded_ = std::move(recorded);
  for (const Feeds& feeds : data.batches) record.masks_.push_back(row_mask(model, feeds));
  return record;
}

Result<StreamRecord> StreamRecord::create(const Model& model, const Dataset& data, StreamUnit::Part part) {
  OF_ASSIGN(Recording recorded, onnxfold::record(model, data, values(model, part)));
  return adopt(model, data, part, std::move(recorded));
}

int StreamRecord::channel_axis(std::size_t block) const {
  return view_.blocks[block].kind == Block::Kind::kConvolution ? 1 : -1;
}

std::string StreamRecord::final_value() const {
  for (auto block = view_.blocks.rbegin(); block != view_.blocks.rend(); ++block) {
    if (block->output != nullptr) return block->output->name();
  }
  return {};
}

Result<Recording> StreamRecord::without(const std::vector<StreamUnit>& gone,
                                        const std::vector<std::string>& values) const {
  const std::unique_ptr<Model> changed = model_->clone();
  const Value* earliest = nullptr;
  for (const StreamUnit& unit : gone) {
    const bool first = earliest == nullptr || model_->graph().before(*unit.after->producer(), *earliest->producer());
    if (first) earliest = unit.after;
    StreamUnit same = unit_in(changed->graph(), unit);
    // A window: the unit before may have been taken out already, so that its output is nobody's input any more.
    for (const StreamUnit& other : gone) {
      if (other.after == unit.before) same.before = changed->graph().find(other.before->name());
    }
    OF_TRY(bypass(changed->graph(), same));
  }
  std::set<std::string> wanted(values.begin(), values.end());
  for (const std::string& name : output_names(*model_)) {
    const Value* output = model_->graph().find(name);
    const bool goes = std::any_of(gone.begin(), gone.end(), [&](const StreamUnit& unit) {
      const auto& nodes = unit.nodes;
      return output != unit.after && std::find(nodes.begin(), nodes.end(), output->producer()) != nodes.end();
    });
    if (!goes) wanted.insert(name);
  }
  if (earliest == nullptr)
    return replay(*changed, *data_, Recording{recorded_.batches}, {wanted.begin(), wanted.end()});
  return replay(*changed, *data_, recorded_before(*model_, recorded_, *earliest), {wanted.begin(), wanted.end()});
}

Result<StreamRecord::Angle> StreamRecord::angle(const Recording& a, const std::string& value_a, const Recording& b,
                                                const std::string& value_b, int axis) const {
  Angle mean{0, 0};
  std::int64_t rows = 0;
  for (std::size_t batch = 0; batch < masks_.size(); ++batch) {
    OF_ASSIGN(const Matrix x, rows_of(a.batches[batch].at(value_a), masks_[batch], axis));
    OF_ASSIGN(const Matrix y, rows_of(b.batches[batch].at(value_b), masks_[batch], axis));
    if (x.rows != y.rows || x.cols != y.cols) return fail(Code::kInvalidArgument, "the two values differ in shape");
    for (std::int64_t row = 0; row < x.rows; ++row) {
      double xy = 0, xx = 0, yy = 0;
      for (std::int64_t c = 0; c < x.cols; ++c) {
        xy += x.at(row, c) * y.at(row, c);
        xx += x.at(row, c) * x.at(row, c);
        yy += y.at(row, c) * y.at(row, c);
      }
      const double cosine = xx > 0 && yy > 0 ? std::clamp(xy / std::sqrt(xx * yy), -1.0, 1.0) : xx == yy ? 1.0 : 0.0;
      mean.cosine += cosine;
      mean.arc += std::acos(cosine) / M_PI;
      ++rows;
    }
  }
  if (rows > 0) mean = {mean.cosine / static_cast<double>(rows), mean.arc / static_cast<double>(rows)};
  return mean;
}

Result<std::vector<double>> score_units(const StreamRecord& record, UnitScore score, const DamageMeter* meter,
                                        const std::vector<char>& candidate) {
  std::vector<double> scores(record.units().size(), HUGE_VAL);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (candidate[i] == 0) continue;
    const StreamUnit& unit = record.units()[i];
    if (score == UnitScore::kInfluence) {
      OF_ASSIGN(const auto angle, record.angle(record.recorded(), unit.before->name(), record.recorded(),
                                               unit.after->name(), record.channel_axis(unit.block)));
      scores[i] = 1 - angle.cosine;
      continue;
    }
    const std::string last = record.final_value();
    const std::string final_without = unit.after->name() == last ? unit.before->name() : last;
    OF_ASSIGN(const Recording changed,
              record.without({unit}, score == UnitScore::kMacro ? std::vector<std::string>{final_without}
                                                                : std::vector<std::string>{}));
    if (score == UnitScore::kDamage) {
      OF_ASSIGN(const Damage damage, meter->measure(changed));
      scores[i] = damage.value;
    } else {
      const int axis = record.channel_axis(record.view().blocks.size() - 1);
      OF_ASSIGN(const auto angle, record.angle(record.recorded(), last, changed, final_without, axis));
      scores[i] = 1 - angle.cosine;
    }
  }
  return scores;
}

Result<std::optional<std::size_t>> closest_window(const StreamRecord& record, std::size_t count,
                                                  const std::vector<char>& candidate, std::vector<double>* arcs) {
  std::optional<std::size_t> best;
  double least = HUGE_VAL;
  const auto& units = record.units();
  if (arcs != nullptr) arcs->assign(units.size(), HUGE_VAL);
  for (std::size_t first = 0; count > 0 && first + count <= units.size(); ++first) {
    bool possible = candidate[first] != 0;
    for (std::size_t i = first + 1; i < first + count; ++i) {
      possible = possible && candidate[i] != 0 && units[i].before == units[i - 1].after;
    }
    if (!possible) continue;
    OF_ASSIGN(const auto angle,
              record.angle(record.recorded(), units[first].before->name(), record.recorded(),
                           units[first + count - 1].after->name(), record.channel_axis(units[first].block)));
    if (arcs != nullptr) (*arcs)[first] = angle.arc;
    if (angle.arc >= least) continue;
    least = angle.arc;
    best = first;
  }
  return best;
}

}  // namespace onnxfold
