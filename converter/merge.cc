#include "converter/merge.h"

#include <fmt/format.h>

#include <chrono>

#include "converter/compress.h"
#include "converter/make_merged.h"
#include "converter/merge_score.h"
#include "converter/model_files.h"

namespace onnxfold {
namespace {

using Clock = std::chrono::steady_clock;

class Job {
 public:
  explicit Job(const MergeOptions& options) : options_(options) {}

  Result<Report> run() {
    OF_ASSIGN(choice_, choose_merge(options_));
    report_.verb = "merge";
    report_.seed = options_.seed;
    MergeFacts& facts = report_.merge.emplace();
    OF_ASSIGN(sources_, load_merge_sources(options_, choice_, facts));
    report_.source = facts.parents.back();
    OF_ASSIGN(merged_, make_merged(options_, sources_, choice_, facts));
    describe();
    if (options_.check) {
      OF_ASSIGN(report_.proof, score_merge(options_, sources_, choice_.weights, merged_, facts));
    } else {
      report_.not_checked = "--no-check was given";
    }
    OF_TRY(save_result());
    report_.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    report_.peak_memory_bytes = peak_memory_bytes();
    return std::move(report_);
  }

 private:
  // No paths: the same models and options give the same bytes.
  void describe() {
    std::string line = std::string(choice_.method->name);
    char separator = ':';
    for (const auto& [name, value] : choice_.method_options->all()) {
      line += fmt::format("{}{}={}", separator, name, value);
      separator = ',';
    }
    report_.merge->method = line;
    std::string hashes;
    for (const ModelFacts& parent : report_.merge->parents) {
      hashes += (hashes.empty() ? "" : "+") + (parent.xxh128.empty() ? std::string(32, '0') : parent.xxh128);
    }
    stamp(*merged_.model, fmt::format("merge {} weights={}", line, fmt::join(choice_.weights, ",")), hashes);
    report_.target.path = options_.target;
    report_.target.nodes = node_count(*merged_.model);
    report_.target.weight_bytes = weight_bytes(*merged_.model);
  }

  Status save_result() {
    if (options_.dry_run) {
      report_.predicted = true;
      report_.target.bytes = report_.source.bytes;
      return {};
    }
    if (report_.passed()) {
      OF_TRY(save_as(options_.target, options_.save));
      report_.written = true;
      return {};
    }
    if (!options_.keep_failed) return {};
    SaveOptions forced = options_.save;
    forced.overwrite = true;
    report_.failed_path = failed_name(options_.target);
    return save_as(report_.failed_path, forced);
  }

  Status save_as(const std::string& path, SaveOptions save_options) {
    save_options.progress = [this](std::int64_t done, std::int64_t total) {
      if (options_.progress)
        options_.progress("writing", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
    };
    save_options.described = sources_.described;
    return save_with_facts(*merged_.model, path, save_options, report_.target);
  }

  const MergeOptions& options_;
  const Clock::time_point start_ = Clock::now();
  Report report_;
  MergeChoice choice_;
  MergeSources sources_;
  Merged merged_;
};

}  // namespace

Result<Report> merge_models(const MergeOptions& options) { return Job(options).run(); }

}  // namespace onnxfold
