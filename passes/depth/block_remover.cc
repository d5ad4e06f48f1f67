#include "passes/depth/block_remover.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace onnxfold {
namespace {

Recording first_batches(const Recording& recording, const Dataset& few) {
  Recording first = recording;
  first.batches.resize(few.batches.size());
  return first;
}

// The stream in front of what a healing may change to mend this value: the input of the block that makes it.
std::string in_front_of(const BlockView& view, const Value& stream) {
  for (const Block& block : view.blocks) {
    const bool makes = std::any_of(block.nodes.begin(), block.nodes.end(),
                                   [&](const Node* node) { return node == stream.producer(); });
    if ((makes || block.output == &stream) && block.input != nullptr) return block.input->name();
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<BlockRemover>> BlockRemover::create(const Model& model, const Dataset& data,
                                                           StreamUnit::Part part, HealFunction heal) {
  std::unique_ptr<BlockRemover> remover(new BlockRemover());
  remover->data_ = &data;
  remover->part_ = part;
  remover->heal_ = heal;
  remover->teacher_ = model.clone();
  remover->student_ = model.clone();
  OF_ASSIGN(remover->teacher_values_, onnxfold::record(model, data, StreamRecord::values(model, part)));
  remover->values_ = remover->teacher_values_;
  OF_ASSIGN(remover->judge_, DamageMeter::create(model, data, {}, &remover->teacher_values_));
  remover->damage_ = remover->judge_->original().value;
  return remover;
}

StreamRecord BlockRemover::record(const Dataset& few) const {
  return StreamRecord::adopt(*student_, few, part_, first_batches(values_, few));
}

Recording BlockRemover::teacher_outputs(const Dataset& few) const { return first_batches(teacher_values_, few); }

Result<BlockRemover::Removed> BlockRemover::remove(const std::string& after) {
  const BlockView view = find_blocks(student_->graph());
  std::optional<StreamUnit> unit;
  for (StreamUnit& one : removable_units(student_->graph(), view, part_)) {
    if (one.after->name() == after) unit = std::move(one);
  }
  if (!unit) return fail(Code::kUnsupported, fmt::format("the unit behind '{}' cannot be removed any more", after));
  const std::string stream = unit->before->name(), front = in_front_of(view, *unit->before);
  const auto known = gaps_.find(after);  // the unit stands in front of a gap: that one grows
  const std::string wanted = known == gaps_.end() ? after : known->second;
  if (known != gaps_.end()) gaps_.erase(known);
  gaps_[stream] = wanted;
  Removed removed;
  removed.bytes_before = constant_bytes(student_->graph());
  OF_ASSIGN(removed.interface, remove_unit(student_->graph(), *unit));
  student_->graph().purge();
  removed.bytes_after = constant_bytes(student_->graph());
  const Recording before = values_;
  OF_TRY(measure_plain(stream));
  if (heal_ != nullptr) {
    OF_ASSIGN(removed.note, heal(heal_, stream, wanted, front, before));
    // What is behind the gap may be better left alone (post-norm streams): then the Linear in front of it at least.
    if (heal_ == heal_ridge_stream && removed.note.starts_with("not healed")) {
      OF_ASSIGN(const std::string second, heal(heal_ridge_down, stream, wanted, front, before));
      removed.note += "; the Linear in front alone: " + second;
    }
  }
  return removed;
}

Status BlockRemover::measure_plain(const std::string& stream) {
  const Model& model = *student_;
  Recording kept = recorded_up_to(model, values_, *model.graph().find(stream));
  OF_ASSIGN(Recording behind, replay(model, *data_, kept, StreamRecord::values(model, part_)));
  OF_ASSIGN(const Damage plain, judge_->measure(behind));
  damage_ = plain.value;
  values_ = std::move(kept);
  values_.merge(std::move(behind));
  return {};
}

Result<std::string> BlockRemover::heal(HealFunction how, const std::string& stream, const std::string& wanted,
                                       const std::string& front, const Recording& before) {
  std::map<std::string, std::string> others = gaps_;
  others.erase(stream);
  const std::unique_ptr<Model> healed = student_->clone();
  OF_ASSIGN(const HealNotes notes,
            how({*healed, *teacher_, *data_, teacher_values_, before, stream, wanted, std::move(others)}));
  const Value* unchanged = healed->graph().find(front);
  Recording kept = unchanged == nullptr ? Recording{std::vector<Taps>(data_->batches.size())}
                                        : recorded_up_to(*healed, before, *unchanged);
  OF_ASSIGN(Recording behind, replay(*healed, *data_, kept, StreamRecord::values(*healed, part_)));
  OF_ASSIGN(const Damage better, judge_->measure(behind));
  if (!(better.value < damage_)) {
    return fmt::format("not healed: {} would go from {:.4f} to {:.4f}", judge_->kind_name(), damage_, better.value);
  }
  const std::string text = fmt::format("healed: {} {:.4f} -> {:.4f}; {}", judge_->kind_name(), damage_, better.value,
                                       fmt::join(notes, "; "));
  damage_ = better.value;
  student_->adopt_graph(*healed);
  values_ = std::move(kept);
  values_.merge(std::move(behind));
  return text;
}

}  // namespace onnxfold
