#include "passes/quantize/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "analysis/compare/damage.h"
#include "exec/stepper.h"
#include "ir/match.h"
#include "passes/quantize/calibrated_products.h"
#include "passes/quantize/gptq_sweep.h"
#include "passes/quantize/norm_importance.h"

namespace onnxfold {
namespace {

// All readings of one weight in one format.
using Readings = std::vector<WeightTarget>;

struct Candidate {
  const Value* weight = nullptr;
  std::vector<Readings> formats;  // by format asked for; empty where it cannot be stored
};

// What stands for the weight in front of its readers.
Result<FloatRows> rounded(const WeightTarget& target, BlockRule rule, const ColumnImportance& importance) {
  auto codes = quantize_blocks(*constant(target.weight), target.shape, target.format, target.scale_type(), rule,
                               importance ? std::span<const float>(*importance) : std::span<const float>());
  if (!codes) return fail(codes.error().in(fmt::format("weight '{}'", target.weight->name())));
  return dequantized(*codes, target.format);
}

Datum as_read(const WeightTarget& target, const FloatRows& rows) {
  if (!target.table()) return operand_of(target, rows);
  Array array(target.type, {rows.rows, rows.cols}, Precision::kFloat32);
  std::copy(rows.data.begin(), rows.data.end(), array.mutable_data<float>());
  round_to_dtype(array);
  return Datum(std::move(array));
}

double relative_square(const FloatRows& weight, const FloatRows& other) {
  double error = 0, total = 0;
  for (std::size_t i = 0; i < weight.data.size(); ++i) {
    const auto w = static_cast<double>(weight.data[i]), miss = w - static_cast<double>(other.data[i]);
    error += miss * miss;
    total += w * w;
  }
  return total > 0 ? error / total : 0;
}

class Measurement {
 public:
  Measurement(const Model& model, const Dataset* data, const SensitivityOptions& options)
      : model_(model), data_(data), options_(options) {}

  Result<Sensitivity> run() {
    find_candidates();
    if (options_.norms) OF_TRY(weigh_columns());
    if (data_ != nullptr) OF_TRY(prepare());
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      OF_TRY(measure(candidates_[i]));
      if (options_.progress) {
        options_.progress(static_cast<double>(i + 1) / static_cast<double>(candidates_.size()));
      }
    }
    derive();
    if (steps_total_ > 0) out_.forward_passes = static_cast<double>(steps_run_) / static_cast<double>(steps_total_);
    return std::move(out_);
  }

 private:
  void find_candidates();
  Status weigh_columns();
  ColumnImportance importance_of(const WeightTarget& target) const;
  Status prepare();
  Status measure(const Candidate& candidate);
  Result<std::vector<FormatDamage>> weigh(const Candidate& candidate) const;
  Result<double> damage_of(const Readings& readings) const;
  bool reachable(const Candidate& candidate) const;
  void derive();
  void derive_from_own(std::vector<FormatDamage>& formats) const;

  const Model& model_;
  const Dataset* data_;
  const SensitivityOptions& options_;
  std::vector<Candidate> candidates_;
  std::map<const Graph*, NormImportance> importance_;
  std::optional<DamageMeter> meter_;
  std::unique_ptr<Stepper> stepper_;
  std::map<const Node*, std::int64_t> order_;
  mutable std::int64_t steps_run_ = 0;
  std::int64_t steps_total_ = 0;
  Sensitivity out_;
};

// Formats have the same readers, so that counting a reader once for each changes no mean.
Status Measurement::weigh_columns() {
  std::map<const Graph*, std::vector<WeightTarget>> targets;
  for (const Candidate& candidate : candidates_) {
    for (const Readings& readings : candidate.formats) {
      for (const WeightTarget& target : readings) targets[target.node->graph()].push_back(target);
    }
  }
  for (const auto& [graph, readers] : targets) {
    OF_ASSIGN(importance_[graph], NormImportance::find(*graph, readers));
  }
  return {};
}

ColumnImportance Measurement::importance_of(const WeightTarget& target) const {
  const auto found = importance_.find(target.node->graph());
  return found == importance_.end() ? nullptr : found->second.of(target);
}

void Measurement::find_candidates() {
  PassContext unheard(const_cast<Model&>(model_), "");  // only told about; nothing is changed
  std::map<const Value*, std::size_t> index;
  for (std::size_t f = 0; f < options_.formats.size(); ++f) {
    WeightOptions options = options_.weights;
    options.format = options_.formats[f];
    options.rules.clear();
    options.other_bits = 0;
    for (const Graph* graph : const_cast<Model&>(model_).graphs()) {
      for (const WeightTarget& target : find_weight_targets(*graph, options, unheard)) {
        const auto [found, fresh] = index.try_emplace(target.weight, candidates_.size());
        if (fresh) candidates_.push_back({target.weight, std::vector<Readings>(options_.formats.size())});
        candidates_[found->second].formats[f].push_back(target);
      }
    }
  }
  // A format that only some of the readers can take would leave a second copy of the weight in the file.
  for (Candidate& candidate : candidates_) {
    std::size_t most = 0;
    for (const Readings& readings : candidate.formats) most = std::max(most, readings.size());
    for (Readings& readings : candidate.formats) {
      if (readings.size() < most) readings.clear();
    }
  }
  for (const Node* node : model_.graph().nodes()) order_.emplace(node, static_cast<std::int64_t>(order_.size()));
  std::stable_sort(candidates_.begin(), candidates_.end(), [&](const Candidate& a, const Candidate& b) {
    const auto first = [&](const Candidate& c) {
      for (const Readings& readings : c.formats) {
        if (readings.empty()) continue;
        const auto found = order_.find(readings.front().node);
        if (found != order_.end()) return found->second;
      }
      return static_cast<std::int64_t>(order_.size());
    };
    return first(a) < first(b);
  });
}

Status Measurement::prepare() {
  OF_ASSIGN(meter_, DamageMeter::create(model_, *data_, DamageMeter::Kind::kKl));
  OF_ASSIGN(stepper_, Stepper::create(model_, data_->batches));
  steps_total_ = static_cast<std::int64_t>(model_.graph().node_count());
  steps_run_ = steps_total_;  // the original, once
  out_.kind = meter_->kind() == DamageMeter::Kind::kKl ? "KL" : "squared error";
  return {};
}

bool Measurement::reachable(const Candidate& candidate) const {
  if (!stepper_) return false;
  for (const Readings& readings : candidate.formats) {
    for (const WeightTarget& target : readings) {
      if (target.node->graph() != &model_.graph()) return false;
    }
  }
  return true;
}

Result<double> Measurement::damage_of(const Readings& readings) const {
  const auto fork = stepper_->fork();
  std::set<const Value*> replaced;
  for (const WeightTarget& target : readings) {
    const Value* read = target.node->input(target.input);
    if (!replaced.insert(read).second) continue;
    OF_ASSIGN(const FloatRows rows, rounded(target, options_.rule, importance_of(target)));
    OF_TRY(fork->replace(*read, as_read(target, rows)));
  }
  OF_TRY(fork->run_until(nullptr));
  steps_run_ += steps_total_ - order_.at(readings.front().node);
  Recording outputs;
  outputs.batches.resize(fork->batches());
  for (std::size_t batch = 0; batch < fork->batches(); ++batch) {
    for (const Value* output : model_.graph().outputs()) {
      OF_ASSIGN(outputs.batches[batch][output->name()], fork->value(batch, *output));
    }
  }
  OF_ASSIGN(const Damage damage, meter_->measure(outputs));
  // Errors of independent weights add up in squares.
  return meter_->kind() == DamageMeter::Kind::kKl ? damage.value : damage.value * damage.value;
}

// Sizes and weight errors of every format that can store the weight.
Result<std::vector<FormatDamage>> Measurement::weigh(const Candidate& candidate) const {
  std::vector<FormatDamage> formats;
  FloatRows weight;
  for (const Readings& readings : candidate.formats) {
    if (readings.empty()) continue;
    const WeightTarget& target = readings.front();
    if (weight.rows == 0) {
      OF_ASSIGN(weight, weight_rows(target));
    }
    FormatDamage each;
    each.format = target.format;
    OF_ASSIGN(const FloatRows rows, rounded(target, options_.rule, importance_of(target)));
    each.weight_error = relative_square(weight, rows);
    std::set<std::pair<std::int64_t, DType>> stored;  // readings that lie alike are stored once
    for (const WeightTarget& reading : readings) {
      if (stored.emplace(reading.shape.inner, reading.type).second) {
        each.bytes += quantized_bytes(reading, options_.weights);
      }
    }
    formats.push_back(each);
  }
  return formats;
}

// The formats that are worth a run: for 2 and for 4 bits the one of middling block.
bool is_anchor(const BlockFormat& format) { return (format.bits == 2 || format.bits == 4) && format.symmetric; }

Status Measurement::measure(const Candidate& candidate) {
  WeightSensitivity row;
  const Readings* first = nullptr;
  for (const Readings& readings : candidate.formats) {
    if (first == nullptr && !readings.empty()) first = &readings;
  }
  if (first == nullptr) return {};
  row.weight = candidate.weight->name();
  row.node = first->front().node->label();
  row.elements = constant(candidate.weight)->size();
  row.bytes = constant(candidate.weight)->nbytes();
  OF_ASSIGN(row.formats, weigh(candidate));
  if (reachable(candidate)) {
    OF_TRY(stepper_->run_until(first->front().node));
    std::set<int> done;
    std::size_t at = 0;
    for (int pass = 0; pass < 2; ++pass) {  // symmetric blocks of 32 first; what else there is when they cannot be
      at = 0;
      for (const Readings& readings : candidate.formats) {
        if (readings.empty()) continue;
        FormatDamage& format = row.formats[at++];
        const bool wanted = pass == 0 ? is_anchor(format.format) && format.format.block == 32
                                      : format.format.bits == 2 || format.format.bits == 4;
        if (!wanted || !done.insert(format.format.bits).second) continue;
        OF_ASSIGN(format.damage, damage_of(readings));
        format.measured = true;
      }
    }
  }
  out_.weights.push_back(std::move(row));
  return {};
}

// From the measured format of the same or the nearest number of bits, by the ratio of squared weight errors.
void Measurement::derive_from_own(std::vector<FormatDamage>& formats) const {
  for (FormatDamage& format : formats) {
    if (format.measured) continue;
    const FormatDamage* anchor = nullptr;
    for (const FormatDamage& other : formats) {
      if (!other.measured) continue;
      const auto far = [&](const FormatDamage& f) { return std::abs(f.format.bits - format.format.bits); };
      if (anchor == nullptr || far(other) < far(*anchor)) anchor = &other;
    }
    if (anchor == nullptr) return;
    format.damage =
        anchor->weight_error > 0 ? anchor->damage * format.weight_error / anchor->weight_error : anchor->damage;
  }
}

void Measurement::derive() {
  if (out_.kind.empty()) out_.kind = "weights";
  std::vector<double> ratios;
  for (WeightSensitivity& row : out_.weights) {
    derive_from_own(row.formats);
    for (const FormatDamage& format : row.formats) {
      if (format.measured && format.weight_error > 0) ratios.push_back(format.damage / format.weight_error);
    }
  }
  double typical = 1;
  if (!ratios.empty()) {
    const auto middle = ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() / 2);
    std::nth_element(ratios.begin(), middle, ratios.end());
    typical = *middle;
  }
  for (WeightSensitivity& row : out_.weights) {
    const bool any = std::any_of(row.formats.begin(), row.formats.end(), [](const auto& f) { return f.measured; });
    if (any) continue;
    for (FormatDamage& format : row.formats) format.damage = typical * format.weight_error;
  }
}

}  // namespace

Result<Sensitivity> measure_sensitivity(const Model& model, const Dataset* data, const SensitivityOptions& options) {
  OF_TRY(options.weights.check());
  return Measurement(model, data, options).run();
}

}  // namespace onnxfold
