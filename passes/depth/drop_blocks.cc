// x + f1(x) + ... => the same without the blocks (or attention or feed-forward sublayers) that matter least.
//
// Conditions: a residual stream that the structure view understands. Which: named by the user, or chosen on calibration
// data, one after the other on the model as it is by then. Lossy. Closed-form healing in front of and behind each gap
// (heal.h), kept only where it helps on held-out data.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "passes/depth/block_remover.h"
#include "passes/depth/remove_unit.h"
#include "passes/pass.h"

namespace onnxfold {
namespace {

using Part = StreamUnit::Part;
HealFunction heal_function(const std::string& name) {
  if (name == "ridge-down") return heal_ridge_down;
  if (name == "ridge-stream") return heal_ridge_stream;
  if (name == "replaceme") return heal_replaceme;
  if (name == "linear-patch") return heal_linear_patch;
  return nullptr;
}

Dataset first_samples(const Dataset& data, std::int64_t samples) {
  Dataset few = data;
  std::int64_t seen = 0;
  std::size_t batches = 0;
  while (batches < data.batches.size() && (samples == 0 || seen < samples)) seen += data.batch_sizes[batches++];
  few.batches.resize(batches);
  few.batch_sizes.resize(batches);
  return few;
}

class DropBlocks final : public Pass {
 public:
  explicit DropBlocks(const PassOptions& options)
      : count_(options.integer("count")),
        ratio_(options.number("ratio")),
        list_(options.patterns("blocks")),
        choice_(options.text("choice")),
        heal_(heal_function(options.text("heal"))),
        scale_paths_(options.text("heal") == "ensemble-scale"),
        protect_first_(options.integer("protect-first")),
        protect_last_(options.integer("protect-last")),
        score_samples_(options.integer("score-samples")) {
    part_ = options.text("what") == "attention"      ? Part::kAttention
            : options.text("what") == "feed-forward" ? Part::kFeedForward
                                                     : Part::kBlock;
  }

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph() || (count_ == 0 && ratio_ == 0 && list_.empty())) return false;
    OF_TRY(find_units(graph, context));
    if (originals_.empty()) {
      context.skipped(graph.name, "no residual stream with blocks was found");
      return false;
    }
    OF_TRY(parse_list());
    if (count_ == 0)
      count_ = static_cast<std::int64_t>(std::ceil(ratio_ * static_cast<double>(originals_.size()) - 1e-9));
    if (!list_.empty() && context.calibration == nullptr) return drop_listed_unhealed(context);
    if (context.calibration == nullptr) {
      return fail(Code::kInvalidArgument, "choosing blocks needs data (--calibration F.npz); or name them: blocks=3;8");
    }
    return drop_on_data(context);
  }

 private:
  // Every unit of the model as it comes in, by the name of the value after it.
  struct Original {
    std::string after, before, label;
    bool is_protected = false;
  };

  Status find_units(const Graph& graph, PassContext& context) {
    std::vector<StructureNote> notes;
    const BlockView view = find_blocks(graph);
    const auto units = removable_units(graph, view, part_, &notes);
    for (const StructureNote& note : notes) context.skipped(note.node, note.reason);
    const bool measured = choice_ == "loss" || choice_ == "kl";
    const auto first = static_cast<std::size_t>(protect_first_ >= 0 ? protect_first_ : 2);
    const auto last = static_cast<std::size_t>(protect_last_ >= 0 ? protect_last_ : measured ? 0 : 1);
    std::map<std::size_t, std::vector<std::size_t>> by_stream;
    for (std::size_t i = 0; i < view.blocks.size(); ++i) by_stream[view.blocks[i].stream].push_back(i);
    for (const StreamUnit& unit : units) {
      const auto& mates = by_stream[view.blocks[unit.block].stream];
      const auto at = static_cast<std::size_t>(std::find(mates.begin(), mates.end(), unit.block) - mates.begin());
      const bool is_protected = at < first || at + last >= mates.size();
      originals_.push_back({unit.after->name(), unit.before->name(), unit.label, is_protected});
      blocks_.push_back(unit.block);
    }
    return {};
  }

  Status parse_list() {
    for (const std::string& word : list_) {
      std::size_t number = 0;
      const auto parsed = std::from_chars(word.data(), word.data() + word.size(), number);
      const auto found = std::find(blocks_.begin(), blocks_.end(), number);
      if (parsed.ec != std::errc() || parsed.ptr != word.data() + word.size() || found == blocks_.end()) {
        return fail(Code::kInvalidArgument,
                    fmt::format("blocks: '{}' is none of the blocks that can go: {}", word, fmt::join(blocks_, ";")));
      }
      for (std::size_t i = 0; i < blocks_.size(); ++i) {
        if (blocks_[i] == number) wanted_.push_back(i);
      }
    }
    std::sort(wanted_.begin(), wanted_.end());  // from the front: what is behind is healed on what is there by then
    wanted_.erase(std::unique(wanted_.begin(), wanted_.end()), wanted_.end());
    return {};
  }

  const Original* original(const std::string& after) const {
    for (const Original& one : originals_) {
      if (one.after == after) return &one;
    }
    return nullptr;
  }

  std::string label_of(const std::string& after) const {
    const Original* one = original(after);
    return one == nullptr ? after : one->label;
  }

  static void report(const std::string& label, const std::string& what, const RemovedInterface& interface,
                     std::int64_t bytes, PassContext& context) {
    context.applied(label, what, bytes);
    if (interface.inputs.empty() && interface.outputs.empty()) return;
    context.note(label, fmt::format("the signature changes: inputs {} and outputs {} are gone with its key-value cache",
                                    fmt::join(interface.inputs, ", "), fmt::join(interface.outputs, ", ")));
  }

  Result<bool> drop_listed_unhealed(PassContext& context) {
    const std::unique_ptr<Model> student = context.model().clone();
    for (const std::size_t index : wanted_) {
      OF_ASSIGN(const StreamUnit unit, present_unit(student->graph(), index));
      const std::int64_t before = constant_bytes(student->graph());
      OF_ASSIGN(const RemovedInterface interface, remove_unit(student->graph(), unit));
      report(label_of(originals_[index].after), "removed", interface, before - constant_bytes(student->graph()),
             context);
    }
    context.note("", "removed as they are: healing needs data (--calibration F.npz)");
    context.model().adopt_graph(*student);
    return true;
  }

  Result<StreamUnit> present_unit(const Graph& graph, std::size_t index) const {
    for (const StreamUnit& unit : removable_units(graph, find_blocks(graph), part_)) {
      if (unit.after->name() == originals_[index].after) return unit;
    }
    return fail(Code::kUnsupported, fmt::format("{} cannot be removed after the others", originals_[index].label));
  }

  Result<bool> drop_on_data(PassContext& context) {
    const Dataset scoring = first_samples(*context.calibration, score_samples_);
    OF_ASSIGN(const auto remover, BlockRemover::create(context.model(), *context.calibration, part_, heal_));
    std::optional<DamageMeter> meter;
    if (wanted_.empty() && (choice_ == "loss" || choice_ == "kl")) {
      const Recording outputs = remover->teacher_outputs(scoring);
      const auto kind = choice_ == "kl" ? std::optional(DamageMeter::Kind::kKl) : std::nullopt;
      OF_ASSIGN(meter, DamageMeter::create(remover->teacher(), scoring, kind, &outputs));
    }
    const std::size_t rounds = wanted_.empty() ? static_cast<std::size_t>(count_) : wanted_.size();
    bool changed = false;
    for (std::size_t round = 0; round < rounds; ++round) {
      OF_ASSIGN(const auto pick, choose(*remover, scoring, meter ? &*meter : nullptr, round, rounds));
      if (!pick) {
        context.skipped("", fmt::format("only {} of {} could go: the others are protected", round, rounds));
        break;
      }
      OF_ASSIGN(const BlockRemover::Removed removed, remover->remove(*pick));
      report(label_of(*pick), "removed" + (picked_score_.empty() ? "" : ", " + picked_score_), removed.interface,
             removed.bytes_before - removed.bytes_after, context);
      if (!removed.note.empty()) context.note(label_of(*pick), removed.note);
      changed = true;
    }
    if (!changed) return false;
    context.note("", fmt::format("on the calibration data: {} {:.4f} -> {:.4f}", remover->judge().kind_name(),
                                 remover->judge().original().value, remover->damage()));
    const std::unique_ptr<Model> student = remover->student().clone();
    if (scale_paths_) {
      OF_ASSIGN(const HealNotes notes,
                scale_paths(*student, remover->teacher(), *context.calibration, true, remover->judge()));
      context.note("", notes.front());
    }
    context.model().adopt_graph(*student);
    return true;
  }

  // The value behind the unit that goes next; nullopt when none may.
  Result<std::optional<std::string>> choose(const BlockRemover& remover, const Dataset& scoring,
                                            const DamageMeter* meter, std::size_t round, std::size_t rounds) {
    using Picked = std::optional<std::string>;
    if (!wanted_.empty()) return Picked(originals_[wanted_[round]].after);
    if (choice_ == "window" && !window_.empty()) return Picked(window_[round]);
    const StreamRecord record = remover.record(scoring);
    std::vector<char> candidate = candidates(record);
    if (choice_ == "window") {
      OF_ASSIGN(const auto first, closest_window(record, rounds, candidate));
      for (std::size_t i = 0; first && i < rounds; ++i) window_.push_back(record.units()[*first + i].after->name());
      return first ? Picked(window_[round]) : Picked();
    }
    const UnitScore score = choice_ == "macro"       ? UnitScore::kMacro
                            : choice_ == "influence" ? UnitScore::kInfluence
                                                     : UnitScore::kDamage;
    if (score == UnitScore::kDamage) shortlist(record, candidate);
    OF_ASSIGN(const std::vector<double> scores, score_units(record, score, meter, candidate));
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (candidate[i] != 0) last_scores_[record.units()[i].after->name()] = scores[i];
    }
    const auto least = std::min_element(scores.begin(), scores.end());
    if (least == scores.end() || !std::isfinite(*least)) return Picked();
    picked_score_ = fmt::format("{} {:.4f}", score == UnitScore::kDamage ? meter->kind_name() : choice_, *least);
    return Picked(record.units()[static_cast<std::size_t>(least - scores.begin())].after->name());
  }

  std::vector<char> candidates(const StreamRecord& record) const {
    std::vector<char> candidate;
    for (const StreamUnit& unit : record.units()) {
      const Original* one = original(unit.after->name());
      candidate.push_back(one != nullptr && !one->is_protected ? 1 : 0);
    }
    return candidate;
  }

  // Ranks change little from round to round: the half that did worst when it was last tried is not tried again.
  void shortlist(const StreamRecord& record, std::vector<char>& candidate) const {
    constexpr std::size_t kLeast = 4;
    std::vector<double> known;
    for (std::size_t i = 0; i < candidate.size(); ++i) {
      const auto last = last_scores_.find(record.units()[i].after->name());
      if (candidate[i] != 0 && last == last_scores_.end()) return;
      if (candidate[i] != 0) known.push_back(last->second);
    }
    const std::size_t tried = std::max(kLeast, (known.size() + 1) / 2);
    if (tried >= known.size()) return;
    std::nth_element(known.begin(), known.begin() + static_cast<std::ptrdiff_t>(tried) - 1, known.end());
    for (std::size_t i = 0; i < candidate.size(); ++i) {
      if (candidate[i] != 0 && last_scores_.at(record.units()[i].after->name()) > known[tried - 1]) candidate[i] = 0;
    }
  }

  std::int64_t count_;
  const double ratio_;
  const std::vector<std::string> list_;
  const std::string choice_;
  const HealFunction heal_;
  const bool scale_paths_;
  const std::int64_t protect_first_, protect_last_, score_samples_;
  Part part_ = Part::kBlock;
  std::vector<Original> originals_;
  std::vector<std::size_t> blocks_;  // of the originals
  std::vector<std::size_t> wanted_;  // originals that the user named
  std::vector<std::string> window_;  // chosen at once
  std::string picked_score_;
  std::map<std::string, double> last_scores_;  // by the value behind the unit
};

}  // namespace

std::unique_ptr<Pass> make_drop_blocks(const PassOptions& options) { return std::make_unique<DropBlocks>(options); }

}  // namespace onnxfold
