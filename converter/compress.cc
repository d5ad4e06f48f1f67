#include "converter/compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "analysis/compare/work.h"
#include "converter/bisect.h"
#include "converter/in_double.h"
#include "converter/model_files.h"
#include "converter/own_size.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kBudgetBatch = 8, kBudgetSamples = 64;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Algebra that holds on some batches holds on all: the double twin runs twice as slowly.
Dataset first_batches(const Dataset& data) {
  Dataset few = data;
  const std::size_t count = std::min<std::size_t>(data.batches.size(), 2);
  few.batches.resize(count);
  few.batch_sizes.resize(count);
  return few;
}

class Job {
 public:
  explicit Job(const CompressOptions& options) : options_(options), recipe_(options.recipe) {}

  Result<Report> run() {
    OF_TRY(check_target(options_.target, options_.save.overwrite || options_.dry_run));
    report_.verb = "compress";
    report_.seed = options_.seed;
    progress("reading", -1);
    OF_ASSIGN(LoadedModel loaded, load_with_facts(options_.source, hashing()));
    before_ = std::move(loaded.model);
    report_.source = std::move(loaded.facts);
    OF_TRY(load_data());
    if (options_.budget.any()) OF_TRY(complete_recipe());
    report_.recipe_name = recipe_.name;
    report_.recipe = to_yaml(recipe_);
    after_ = before_->clone();
    OF_TRY(run_passes());
    report_.target.path = options_.target;
    report_.target.nodes = node_count(*after_);
    report_.target.weight_bytes = weight_bytes(*after_);
    report_.source.parameters = count_parameters(*before_);
    report_.target.parameters = count_parameters(*after_);
    OF_TRY(options_.dry_run ? predict() : check_and_save());
    report_.seconds = seconds_since(start_);
    if (!options_.dry_run && report_.peak_memory_bytes == 0) report_.peak_memory_bytes = peak_memory_bytes();
    return std::move(report_);
  }

 private:
  void progress(const std::string& phase, double done) const {
    if (options_.progress) options_.progress(phase, done);
  }

  // What is only predicted says nothing of its source's bytes: a prediction takes seconds whatever the size.
  Hashing hashing() const { return options_.dry_run ? Hashing::kNo : Hashing::kYes; }

  // Data that does not fit is worth saying before the passes run.
  Status load_data() {
    for (const std::string& path : {options_.data, options_.calibration}) {
      std::error_code error;
      if (path.empty() || fs::exists(path, error)) continue;
      return fail(Code::kIo, fmt::format("cannot read data '{}': no such file or folder", path));
    }
    if (!options_.data.empty() && !options_.dry_run) {
      OF_ASSIGN(data_, make_dataset(*before_, options_.data, options_.seed, options_.max_samples));
    }
    if (options_.calibration.empty()) return {};
    progress("reading calibration data", -1);
    DatasetOptions loading;
    loading.max_samples = options_.calibration_samples;
    OF_ASSIGN(calibration_, load_calibration(*before_, options_.calibration, loading));
    return {};
  }

  // Sensitivities hold inner values of all of the data: small batches, and not too many of them.
  Result<std::optional<Dataset>> budget_calibration() const {
    if (options_.calibration.empty()) return std::optional<Dataset>();
    DatasetOptions loading;
    loading.batch_size = kBudgetBatch;
    loading.max_samples = kBudgetSamples;
    if (options_.calibration_samples > 0) loading.max_samples = std::min(kBudgetSamples, options_.calibration_samples);
    OF_ASSIGN(Dataset data, load_calibration(*before_, options_.calibration, loading));
    return std::optional<Dataset>(std::move(data));
  }

  Status complete_recipe() {
    OF_ASSIGN(const std::optional<Dataset> calibration, budget_calibration());
    BudgetOptions budget;
    budget.goal = options_.budget;
    budget.gates = options_.gates;
    budget.before = before_.get();
    budget.recipe = options_.recipe;
    budget.source_hash = report_.source.xxh128;
    if (calibration) budget.calibration = &*calibration;
    if (calibration_) budget.learned = &*calibration_;
    if (options_.budget.automatic && !data_) {
      OF_ASSIGN(data_, make_dataset(*before_, options_.data, options_.seed, options_.max_samples));
    }
    if (data_) budget.data = &*data_;
    budget.save = options_.save;
    budget.seed = options_.seed;
    budget.progress = options_.progress;
    OF_ASSIGN(auto choice, choose_own_size(budget));
    if (!choice) {
      OF_ASSIGN(choice, choose_for_budget(budget));
    }
    recipe_ = std::move(choice->recipe);
    report_.budget = std::move(choice->facts);
    return {};
  }

  PipelineOptions pipeline_options() const {
    PipelineOptions pipeline;
    pipeline.seed = options_.seed;
    if (calibration_) pipeline.calibration = &*calibration_;
    return pipeline;
  }

  Status run_passes() {
    PipelineOptions pipeline = pipeline_options();
    pipeline.after_changed = options_.after_changed;
    pipeline.on_pass = [this](const std::string& pass, int index, int count, double done) {
      progress(pass, (index - 1 + done) / std::max(count, 1));
    };
    OF_ASSIGN(report_.pipeline, run_pipeline(*after_, recipe_, pipeline));
    report_.coverage = coverage_of(report_.pipeline);
    OF_TRY(check_memory(*after_, options_.save));
    stamp(*after_, to_line(recipe_), report_.source.xxh128);
    return {};
  }

  Status predict() {
    SaveOptions save_options = options_.save;
    save_options.described = described_values(*before_);
    OF_ASSIGN(const SaveStats stats, predict_save(*after_, options_.target, save_options));
    report_.predicted = true;
    report_.target.bytes = stats.file_bytes + stats.external_bytes;
    report_.target.external_bytes = stats.external_bytes;
    report_.peak_memory_bytes = peak_memory_bytes() + predicted_writing_bytes(*after_, options_.save);
    report_.not_checked = "dry run";
    return {};
  }

  Status check_and_save() {
    if (options_.check) {
      OF_TRY(check());
    } else {
      report_.not_checked = "--no-check was given";
    }
    if (report_.passed()) return save(options_.target, options_.save);
    if (!options_.keep_failed) return {};
    SaveOptions forced = options_.save;
    forced.overwrite = true;
    report_.failed_path = failed_name(options_.target);
    return save(report_.failed_path, forced);
  }

  Status check() {
    progress("checking", -1);
    auto proof = prove_result();
    if (!proof && (proof.error().code == Code::kUnsupported || proof.error().code == Code::kResource)) {
      return fail(proof.error().code,
                  fmt::format("cannot check the result: {}; --no-check writes it unchecked", proof.error().message));
    }
    if (!proof) return fail(proof.error().in("check"));
    report_.proof = std::move(*proof);
    if (report_.pipeline.exactness == Exactness::kLossy) OF_TRY(compare_at_equal_bytes());
    return {};
  }

  // What the loss bought, and what other methods would have charged for it.
  Status compare_at_equal_bytes() {
    report_.peak_memory_bytes = peak_memory_bytes();
    if (!data_->batches.empty()) {
      const auto samples = std::max<std::int64_t>(1, data_->batch_sizes.front());
      for (const auto& [model, facts] : {std::pair(before_.get(), &report_.source), {after_.get(), &report_.target}}) {
        const auto macs = count_macs(*model, feeds_of_model(*model, data_->batches.front()));
        if (macs && *macs) facts->macs = **macs / samples;
      }
    }
    if (options_.controls == CompressOptions::Controls::kNo) return {};
    EqualBytes table;
    const std::string why = options_.controls == CompressOptions::Controls::kAuto ? why_no_controls() : "";
    if (why.empty()) {
      progress("comparing at equal bytes", -1);
      EqualBytesOptions equal{report_.target.weight_bytes, calibration_ ? &*calibration_ : nullptr, options_.seed, {}};
      equal.progress = [this](double done) { progress("comparing at equal bytes", done); };
      auto controls = equal_bytes_controls(*before_, *data_, equal);
      if (!controls) return fail(controls.error().in("controls at equal bytes (--controls no leaves them out)"));
      table = std::move(*controls);
      table.rows.insert(table.rows.begin(),
                        equal_bytes_row("this result", report_.target.weight_bytes, report_.proof->comparison));
    }
    table.left_out = why;
    report_.equal_bytes = std::move(table);
    return {};
  }

  static Feeds feeds_of_model(const Model& model, const Feeds& data) {
    Feeds feeds;
    for (const Value* input : model.graph().inputs()) {
      const auto found = data.find(input->name());
      if (found != data.end()) feeds.insert(*found);
    }
    return feeds;
  }

  // Low rank takes the SVD of every weight: quantizing alone is done in less time than that.
  std::string why_no_controls() const {
    const bool only_quantized =
        std::all_of(report_.pipeline.runs.begin(), report_.pipeline.runs.end(), [](const PassRun& run) {
          const PassInfo* info = find_pass(run.pass);
          return !run.changed || info->exactness != Exactness::kLossy || info->family == "quantize";
        });
    if (low_rank_work(*before_) <= (only_quantized ? kQuickWork : kWork)) return "";
    return "this model takes long; --controls yes runs them";
  }

  static constexpr double kQuickWork = 5e8, kWork = 8e10;

  Status find_check_data() {
    if (data_) return {};
    auto made = generate_dataset(*before_, options_.seed);
    if (made) {
      data_ = std::move(*made);
      return {};
    }
    if (!calibration_) return fail(made.error());
    data_ = *calibration_;
    data_->origin =
        fmt::format("the calibration data, {} (the model runs on no inputs that were made up)", data_->origin);
    return {};
  }

  Result<Proof> prove_result() {
    OF_TRY(find_check_data());
    const Dataset& data = *data_;
    ProofOptions proof_options;
    proof_options.progress = [this](double done) { progress("checking", done); };
    proof_options.gates = options_.gates;
    proof_options.exactness = report_.pipeline.exactness;
    proof_options.fewer = proof_options.exactness == Exactness::kLossy;
    proof_options.error_in_double = [&] {
      progress("proving in double", -1);
      return error_in_double(*before_, *after_, recipe_, first_batches(data), pipeline_options());
    };
    OF_ASSIGN(Proof proof, prove(*before_, *after_, data, proof_options));
    if (!proof.passed && options_.bisect) OF_TRY(find_culprit(data, proof, std::move(proof_options)));
    return proof;
  }

  // Every intermediate model faces the gates that the result failed; those of the double twin are faced by twins.
  Status find_culprit(const Dataset& data, const Proof& failed, ProofOptions proof_options) {
    progress("looking for the pass that broke it", -1);
    const bool algebra = proof_options.gates.empty() && proof_options.exactness == Exactness::kRounding &&
                         failed.gates.front().gate == kInDoubleGate && !failed.gates.front().passed;
    if (algebra) {
      proof_options.gates.max_rel_l2 = failed.gates.front().limit;
    } else if (proof_options.gates.empty()) {
      std::string why;
      proof_options.gates = default_gates(proof_options.exactness, failed.comparison, why);
    }
    const PipelineOptions pipeline = pipeline_options();
    std::unique_ptr<Model> twin;
    if (algebra) {
      OF_ASSIGN(twin, in_double(*before_));
    }
    OF_ASSIGN(const Dataset same, algebra ? in_double(first_batches(data)) : Result<Dataset>(data));
    OF_ASSIGN(const Culprit culprit, bisect(algebra ? *twin : *before_, recipe_, same, proof_options, pipeline));
    report_.culprit = to_string(culprit);
    return {};
  }

  Status save(const std::string& path, SaveOptions save_options) {
    save_options.progress = [this](std::int64_t done, std::int64_t total) {
      progress("writing", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
    };
    save_options.described = described_values(*before_);
    OF_TRY(save_with_facts(*after_, path, save_options, report_.target));
    report_.written = path == options_.target;
    return {};
  }

  const CompressOptions& options_;
  Recipe recipe_;
  const Clock::time_point start_ = Clock::now();
  Report report_;
  std::unique_ptr<Model> before_, after_;
  std::optional<Dataset> data_, calibration_;
};

}  // namespace

Result<Report> compress(const CompressOptions& options) { return Job(options).run(); }

Result<Report> verify_files(const VerifyOptions& options) {
  const auto start = Clock::now();
  Report report;
  report.verb = "verify";
  report.seed = options.seed;
  OF_ASSIGN(LoadedModel before, load_with_facts(options.before));
  OF_ASSIGN(LoadedModel after, load_with_facts(options.after));
  report.source = std::move(before.facts);
  report.target = std::move(after.facts);
  OF_ASSIGN(const Dataset data, make_dataset(*before.model, options.data, options.seed, options.max_samples));
  OF_ASSIGN(report.proof, prove(*before.model, *after.model, data, {options.gates, Exactness::kLossy, {}, {}}));
  report.seconds = seconds_since(start);
  report.peak_memory_bytes = peak_memory_bytes();
  return report;
}

}  // namespace onnxfold
