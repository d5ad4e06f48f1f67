#include "converter/own_size.h"

#include <fmt/format.h>

#include <algorithm>

#include "converter/compress.h"
#include "converter/model_files.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

constexpr std::string_view kOption = "target-size";
// What makes a pass of this kind fit with the least work, without data; the shapes stay the same.
constexpr std::pair<std::string_view, std::string_view> kCheapest[] = {
    {"start", "average"}, {"factors", "svd"}, {"spread", "uniform"}, {"sweeps", "0"}, {"at-once", "0"}};

bool has_option(const PassInfo& info, std::string_view name) {
  return std::any_of(info.options.begin(), info.options.end(), [&](const OptionSpec& o) { return o.name == name; });
}

bool quantizes(const std::vector<RecipeStep>& steps) {
  return std::any_of(steps.begin(), steps.end(), [](const RecipeStep& step) {
    const PassInfo* info = step.pass.empty() ? nullptr : find_pass(step.pass);
    return (info != nullptr && info->family == "quantize") || quantizes(step.until_stable);
  });
}

bool chooses_its_size(const RecipeStep& step) {
  const PassInfo* info = step.pass.empty() ? nullptr : find_pass(step.pass);
  if (info == nullptr || !has_option(*info, kOption)) return false;
  return std::none_of(step.options.begin(), step.options.end(), [](const auto& option) {
    return option.first == "rank" || option.first == "ranks" || option.first == kOption;
  });
}

class OwnSize {
 public:
  OwnSize(const BudgetOptions& options, std::size_t step) : options_(options), step_(step) {
    choice_.recipe = options.recipe;
  }

  Result<BudgetChoice> run() {
    const std::int64_t size = *options_.goal.size;
    // Numbers that protobuf writes may have a digit more once the real ranks are known.
    const std::int64_t allowed = size - 64 - size / 4096;
    OF_ASSIGN(const Sizes most, sizes_for(untied_target()));
    const std::int64_t target = allowed - (most.file - most.weights);  // nodes and names of all corrections
    OF_ASSIGN(const Sizes found, sizes_for(std::max<std::int64_t>(target, 1)));
    if (found.file > allowed) return fail(Code::kInvalidArgument, too_small(found.file));
    return chosen();
  }

 private:
  RecipeStep& step() { return choice_.recipe.steps[step_]; }

  struct Sizes {
    std::int64_t file = 0, weights = 0;
  };

  // No rank is too high for it.
  std::int64_t untied_target() const {
    const std::int64_t bytes = weight_bytes(*options_.before->clone());
    return 2 * std::max(bytes, *options_.goal.size);
  }

  Result<BudgetChoice> chosen() {
    choice_.facts.goal = "at most " + bytes_text(*options_.goal.size);
    const auto ratio = options_.recipe.steps[step_].options.find("ratio");
    const std::string instead =
        ratio == options_.recipe.steps[step_].options.end() ? "" : fmt::format(", instead of ratio={}", ratio->second);
    choice_.facts.notes.push_back(fmt::format("{} chooses its own size ({}={}{}){}", step().pass, kOption,
                                              step().options.at(std::string(kOption)), instead,
                                              changed_ ? "" : "; it found nothing to do"));
    return std::move(choice_);
  }

  std::string too_small(std::int64_t least) {
    const std::string what = changed_ ? fmt::format("makes the file {} at the least", bytes_text(least))
                                      : fmt::format("finds nothing to do, and the file has {}", bytes_text(least));
    return fmt::format(
        "--target-size {}: {} {}; ask it for more (more loops, fewer blocks protected), or name a quantizer behind it, "
        "which then chooses formats for the size (--pass rtn-search, --pass gptq)",
        bytes_text(*options_.goal.size), step().pass, what);
  }

  // Of the whole recipe's result: as large as this target lets it be, or a little less.
  Result<Sizes> sizes_for(std::int64_t target) {
    step().options[std::string(kOption)] = std::to_string(target);
    step().options.erase("ratio");
    Recipe cheap = choice_.recipe;
    const PassInfo* info = find_pass(step().pass);
    for (const auto& [name, value] : kCheapest) {
      if (has_option(*info, name)) cheap.steps[step_].options[std::string(name)] = value;
    }
    PipelineOptions pipeline;
    pipeline.seed = options_.seed;
    std::unique_ptr<Model> model = options_.before->clone();
    auto done = run_pipeline(*model, cheap, pipeline);
    if (!done && done.error().code == Code::kInvalidArgument && options_.calibration != nullptr) {
      pipeline.calibration = options_.calibration;  // another pass needs data
      model = options_.before->clone();
      done = run_pipeline(*model, cheap, pipeline);
    }
    if (!done) return fail(done.error());
    changed_ = std::any_of(done->runs.begin(), done->runs.end(),
                           [&](const PassRun& run) { return run.pass == step().pass && run.changed; });
    stamp(*model, to_line(choice_.recipe), options_.source_hash);
    SaveOptions save = options_.save;
    save.described = described_values(*options_.before);
    OF_ASSIGN(const SaveStats stats, predict_save(*model, "model.onnx", save));
    Sizes sizes{stats.file_bytes + stats.external_bytes, 0};
    for (const Value* value : model->graph().initializers()) sizes.weights += value->initializer()->nbytes();
    return sizes;
  }

  const BudgetOptions& options_;
  const std::size_t step_;
  BudgetChoice choice_;
  bool changed_ = false;
};

}  // namespace

Result<std::optional<BudgetChoice>> choose_own_size(const BudgetOptions& options) {
  const std::vector<RecipeStep>& steps = options.recipe.steps;
  const auto found = std::find_if(steps.begin(), steps.end(), chooses_its_size);
  if (!options.goal.size || found == steps.end() || quantizes(steps)) return std::optional<BudgetChoice>();
  OF_ASSIGN(BudgetChoice choice, OwnSize(options, static_cast<std::size_t>(found - steps.begin())).run());
  return std::optional<BudgetChoice>(std::move(choice));
}

}  // namespace onnxfold
