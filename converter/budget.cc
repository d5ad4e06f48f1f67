#include "converter/budget.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/compare/damage.h"
#include "converter/compress.h"

namespace onnxfold {
namespace {

constexpr int kSizeRounds = 8;
constexpr std::int64_t kRunnable = std::int64_t{4} << 30;  // weight bytes above which forty runs are not tried unasked
constexpr double kRungs[] = {2.25, 2.5, 2.75, 3, 3.5, 4, 4.25, 4.5, 5, 5.5, 6, 7, 8.25, 8.5};  // bits a weight

constexpr std::int64_t kMeasuredSamples = 16;  // every weight runs them twice

// The first batches, until there are as many samples.
Dataset first_of(Dataset data, std::int64_t samples) {
  std::size_t count = 0;
  for (std::int64_t seen = 0; count < data.batches.size() && seen < samples; ++count) seen += data.batch_sizes[count];
  data.batches.resize(count);
  data.batch_sizes.resize(count);
  return data;
}

// What the search measures on, and where that comes from.
struct Bench {
  std::optional<Dataset> measured, judged;  // none: weights alone
  std::optional<Dataset> learned;           // what candidates learn from
  std::string origin;
};

class BudgetSearch {
 public:
  explicit BudgetSearch(const BudgetOptions& options) : options_(options) {}

  Result<BudgetChoice> run() {
    OF_TRY(set_up());
    OF_TRY(options_.goal.automatic ? search() : fit());
    return std::move(choice_);
  }

 private:
  Status set_up();
  void split_data();
  Status generate_data();
  Result<std::int64_t> weight_budget() const;
  std::int64_t allowed_bytes() const;
  Result<FormatPlan> upgraded(const FormatPlan& floor, std::int64_t weight_bytes) const;
  Result<bool> fits(const FormatPlan& plan, std::int64_t bytes) const;

  Status fit();
  Result<std::vector<FormatPlan>> plans(std::int64_t weight_bytes) const;
  Result<BudgetAttempt> judge(const FormatPlan& plan, const DamageMeter& meter);
  Status choose_unjudged(std::vector<FormatPlan> plans);

  Status search();
  Result<bool> try_rung(double bits);
  Result<bool> passes(const FormatPlan& plan);
  Status take_best();

  void progress(const std::string& phase, double done) const {
    if (options_.progress) options_.progress(phase, done);
  }
  void take(const FormatPlan& plan, BudgetAttempt& attempt) {
    attempt.verdict = "chosen";
    choice_.recipe = formats_->recipe(plan);
  }

  const BudgetOptions& options_;
  Bench bench_;
  std::optional<MixedFormats> formats_;
  std::vector<FormatPlan> passed_;
  std::vector<std::size_t> passed_at_;  // index of their attempts
  BudgetChoice choice_;
};

// The halves of calibration data that has more than one batch; else both jobs have the same data, which is said.
void BudgetSearch::split_data() {
  const Dataset& data = *options_.calibration;
  bench_.origin = data.origin;
  if (data.batches.size() < 2) {
    bench_.measured = bench_.judged = bench_.learned = half_of(data, 0);
    choice_.facts.notes.emplace_back("one batch of calibration data: judged on what was learned from");
    return;
  }
  bench_.learned = half_of(data, 0);
  bench_.measured = first_of(*bench_.learned, kMeasuredSamples);
  bench_.judged = half_of(data, 1);
  bench_.origin += ", half of it held out";
}

Status BudgetSearch::generate_data() {
  OF_ASSIGN(bench_.measured, generate_dataset(*options_.before, options_.seed));
  OF_ASSIGN(bench_.judged, generate_dataset(*options_.before, options_.seed + 1));
  bench_.origin = bench_.judged->origin;
  choice_.facts.notes.emplace_back(
      "without --calibration sensitivities are measured on generated inputs, which say little about real ones");
  return {};
}

Status BudgetSearch::set_up() {
  const bool runnable = options_.calibration != nullptr || weight_bytes(*options_.before->clone()) <= kRunnable;
  if (options_.calibration != nullptr) {
    split_data();
  } else if (options_.goal.automatic && options_.data != nullptr) {
    bench_.measured = first_of(half_of(*options_.data, 0), kMeasuredSamples);
    choice_.facts.notes.emplace_back("without --calibration sensitivities are measured on the data that judges");
  } else if (runnable) {
    OF_TRY(generate_data());
  }
  MixedFormatsOptions mixing;
  mixing.before = options_.before;
  mixing.recipe = options_.recipe;
  mixing.learns = options_.calibration != nullptr;
  mixing.save = options_.save;
  mixing.source_hash = options_.source_hash;
  mixing.pipeline.seed = options_.seed;
  mixing.pipeline.calibration = bench_.learned ? &*bench_.learned : nullptr;
  mixing.progress = options_.progress;
  mixing.data = bench_.measured ? &*bench_.measured : nullptr;
  auto formats = MixedFormats::create(mixing);
  if (!formats && formats.error().code == Code::kUnsupported && options_.calibration == nullptr &&
      !options_.goal.automatic) {
    mixing.data = nullptr;
    bench_ = Bench();
    choice_.facts.notes = {fmt::format("the model cannot be run here ({})", formats.error().message)};
    formats = MixedFormats::create(mixing);
  }
  if (!formats) return fail(formats.error());
  formats_ = std::move(*formats);
  if (!mixing.data) {
    choice_.facts.notes.emplace_back(
        "chosen by the errors of the weights alone, which are a poor guide: no weight has fewer bits than the uniform "
        "format that fits");
  }
  return {};
}

Result<bool> BudgetSearch::fits(const FormatPlan& plan, std::int64_t bytes) const {
  if (options_.goal.bits) return formats_->bits(plan.weight_bytes) <= *options_.goal.bits;
  OF_ASSIGN(const std::int64_t file, formats_->file_bytes(plan));
  return file <= bytes;
}

// Bytes of quantized weights that the goal leaves.
Result<std::int64_t> BudgetSearch::weight_budget() const {
  if (options_.goal.bits) {
    return static_cast<std::int64_t>(*options_.goal.bits * static_cast<double>(formats_->elements()) / 8);
  }
  // Everything else in the file is known from one model laid out; names of formats in its metadata take their place.
  OF_ASSIGN(FormatPlan plan, formats_->mixed(formats_->least_weight_bytes()));
  std::int64_t budget = 0;
  for (int round = 0; round < kSizeRounds; ++round) {
    OF_ASSIGN(const std::int64_t file, formats_->file_bytes(plan));
    const std::int64_t allowed = allowed_bytes();
    if (round > 0 && file <= allowed) return budget;
    budget = round == 0 ? allowed - (file - plan.weight_bytes) : budget - (file - allowed);
    if (budget < formats_->least_weight_bytes()) {
      const std::int64_t least = file - plan.weight_bytes + formats_->least_weight_bytes();
      return fail(Code::kInvalidArgument, fmt::format("--target-size {}: the smallest file is about {}",
                                                      bytes_text(*options_.goal.size), bytes_text(least)));
    }
    OF_ASSIGN(plan, formats_->mixed(budget));
  }
  return budget;
}

// The goal less what a file may differ from its prediction by (names and lengths that are only known once it is made).
std::int64_t BudgetSearch::allowed_bytes() const { return *options_.goal.size - 64 - *options_.goal.size / 65536; }

// `floor` with what is left spent on some weights: names of many formats take bytes of the file as well.
Result<FormatPlan> BudgetSearch::upgraded(const FormatPlan& floor, std::int64_t weight_bytes) const {
  OF_ASSIGN(FormatPlan plan, formats_->upgraded(floor, weight_bytes));
  for (int round = 0; options_.goal.size && round < kSizeRounds; ++round) {
    OF_ASSIGN(const std::int64_t file, formats_->file_bytes(plan));
    const std::int64_t over = file - allowed_bytes();
    if (over <= 0 || weight_bytes - over < floor.weight_bytes) break;
    weight_bytes -= over;
    OF_ASSIGN(plan, formats_->upgraded(floor, weight_bytes));
  }
  return plan;
}

// Mixed formats, the two best uniform ones that fit, and the best of these with what is left spent on some weights.
Result<std::vector<FormatPlan>> BudgetSearch::plans(std::int64_t weight_bytes) const {
  std::vector<FormatPlan> plans;
  for (FormatPlan& plan : formats_->uniform()) {
    if (plans.size() == 2) break;
    OF_ASSIGN(const bool good, fits(plan, options_.goal.size.value_or(0)));
    if (good) plans.push_back(std::move(plan));
  }
  if (!plans.empty()) {
    OF_ASSIGN(FormatPlan more, upgraded(plans.front(), weight_bytes));
    if (more.weight_bytes > plans.front().weight_bytes) plans.push_back(std::move(more));
  }
  if (bench_.judged || plans.empty()) {
    OF_ASSIGN(FormatPlan mixed, formats_->mixed(weight_bytes));
    plans.push_back(std::move(mixed));
  }
  return plans;
}

Result<BudgetAttempt> BudgetSearch::judge(const FormatPlan& plan, const DamageMeter& meter) {
  BudgetAttempt attempt;
  attempt.candidate = plan.name;
  attempt.bits = formats_->bits(plan.weight_bytes);
  OF_ASSIGN(const std::unique_ptr<Model> model, formats_->build(plan, bench_.learned ? &*bench_.learned : nullptr));
  OF_ASSIGN(attempt.bytes, formats_->file_bytes(*model, plan));
  OF_ASSIGN(const Damage damage, meter.measure(*model));
  attempt.value = damage.value;
  attempt.metric = fmt::format("{} {:.4g}", meter.kind_name(), damage.value);
  if (options_.goal.size && attempt.bytes > *options_.goal.size) attempt.verdict = "too large";
  return attempt;
}

// By predicted damage: the last plan spends most.
Status BudgetSearch::choose_unjudged(std::vector<FormatPlan> plans) {
  std::stable_sort(plans.begin(), plans.end(),
                   [](const FormatPlan& a, const FormatPlan& b) { return a.damage < b.damage; });
  BudgetAttempt attempt;
  attempt.candidate = plans.front().name;
  attempt.bits = formats_->bits(plans.front().weight_bytes);
  OF_ASSIGN(attempt.bytes, formats_->file_bytes(plans.front()));
  attempt.metric = "not measured";
  take(plans.front(), attempt);
  choice_.facts.attempts.push_back(std::move(attempt));
  return {};
}

Status BudgetSearch::fit() {
  choice_.facts.goal = options_.goal.size ? "at most " + bytes_text(*options_.goal.size)
                                          : fmt::format("{:g} bits a weight", *options_.goal.bits);
  OF_ASSIGN(const std::int64_t budget, weight_budget());
  if (budget < formats_->least_weight_bytes()) {
    return fail(Code::kInvalidArgument, fmt::format("--target-bits {:g}: the least is {:.3f}", *options_.goal.bits,
                                                    formats_->bits(formats_->least_weight_bytes())));
  }
  OF_ASSIGN(std::vector<FormatPlan> candidates, plans(budget));
  if (!bench_.judged) return choose_unjudged(std::move(candidates));
  choice_.facts.judged_on = bench_.origin;
  OF_ASSIGN(const DamageMeter meter, DamageMeter::create(*options_.before, *bench_.judged, DamageMeter::Kind::kKl));
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    progress("trying formats", static_cast<double>(i) / static_cast<double>(candidates.size()));
    OF_ASSIGN(BudgetAttempt attempt, judge(candidates[i], meter));
    const bool better = !best || *attempt.value < *choice_.facts.attempts[*best].value;
    if (attempt.verdict.empty() && better) best = i;
    choice_.facts.attempts.push_back(std::move(attempt));
  }
  if (!best) return fail(Code::kInvalidArgument, "no combination of formats fits into the budget");
  take(candidates[*best], choice_.facts.attempts[*best]);
  return {};
}

Result<bool> BudgetSearch::passes(const FormatPlan& plan) {
  BudgetAttempt attempt;
  attempt.candidate = plan.name;
  attempt.bits = formats_->bits(plan.weight_bytes);
  const Dataset* learned = options_.learned != nullptr ? options_.learned : options_.calibration;
  OF_ASSIGN(const std::unique_ptr<Model> model, formats_->build(plan, learned));
  OF_ASSIGN(attempt.bytes, formats_->file_bytes(*model, plan));
  ProofOptions proving;
  proving.gates = options_.gates;
  proving.exactness = Exactness::kLossy;
  proving.fewer = true;
  OF_ASSIGN(const Proof proof, prove(*options_.before, *model, *options_.data, proving));
  // The gate that failed, or the first one.
  const auto failed =
      std::find_if(proof.gates.begin(), proof.gates.end(), [](const auto& gate) { return !gate.passed; });
  if (!proof.gates.empty()) {
    const GateResult& gate = failed != proof.gates.end() ? *failed : proof.gates.front();
    attempt.metric = fmt::format("{} {:.6g} (limit {:.6g})", gate.gate, gate.measured, gate.limit);
    attempt.value = gate.measured;
  }
  attempt.verdict = proof.passed ? "passed" : "FAILED";
  choice_.facts.attempts.push_back(std::move(attempt));
  return proof.passed;
}

// Mixed formats first; where they fail, the uniform ones that fit with the rest spent.
Result<bool> BudgetSearch::try_rung(double bits) {
  const auto budget = static_cast<std::int64_t>(bits * static_cast<double>(formats_->elements()) / 8);
  if (budget < formats_->least_weight_bytes()) return false;
  OF_ASSIGN(FormatPlan plan, formats_->mixed(budget));
  OF_ASSIGN(bool good, passes(plan));
  if (!good) {
    const std::vector<FormatPlan> uniform = formats_->uniform();
    const auto fitting = std::find_if(uniform.begin(), uniform.end(),
                                      [&](const FormatPlan& each) { return each.weight_bytes <= budget; });
    if (fitting != uniform.end()) {
      OF_ASSIGN(FormatPlan upgraded, formats_->upgraded(*fitting, budget));
      if (upgraded.step.options != plan.step.options) {
        plan = std::move(upgraded);
        OF_ASSIGN(good, passes(plan));
      }
    }
  }
  if (!good) return false;
  passed_.push_back(std::move(plan));
  passed_at_.push_back(choice_.facts.attempts.size() - 1);
  return true;
}

Status BudgetSearch::take_best() {
  const auto bytes = [&](std::size_t i) { return choice_.facts.attempts[passed_at_[i]].bytes; };
  std::size_t best = 0;
  for (std::size_t i = 1; i < passed_.size(); ++i) {
    if (bytes(i) < bytes(best)) best = i;
  }
  take(passed_[best], choice_.facts.attempts[passed_at_[best]]);
  return {};
}

// Larger budgets lose less, near enough: bisection between what failed and what passed.
Status BudgetSearch::search() {
  choice_.facts.goal = "the smallest that passes its gates";
  choice_.facts.judged_on = options_.data->origin;
  int low = -1, high = static_cast<int>(std::size(kRungs)) - 1;
  OF_ASSIGN(const bool possible, try_rung(kRungs[high]));
  if (!possible) {
    choice_.recipe = formats_->without();
    choice_.facts.notes.emplace_back("even 8 bits fail: the weights stay as they are");
    return {};
  }
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    progress("trying formats", 1 - static_cast<double>(high - low) / static_cast<double>(std::size(kRungs)));
    OF_ASSIGN(const bool good, try_rung(kRungs[middle]));
    (good ? high : low) = middle;
  }
  return take_best();
}

}  // namespace

Dataset half_of(const Dataset& data, std::size_t first) {
  Dataset half;
  for (std::size_t i = first; i < data.batches.size(); i += data.batches.size() < 2 ? 1 : 2) {
    half.batches.push_back(data.batches[i]);
    half.batch_sizes.push_back(data.batch_sizes[i]);
  }
  half.origin = data.origin;
  return half;
}

Result<BudgetChoice> choose_for_budget(const BudgetOptions& options) { return BudgetSearch(options).run(); }

}  // namespace onnxfold
