#include "converter/compress.h"

#include <fmt/format.h>

#include <iostream>

#include "cli/verbs.h"
#include "ir/dump.h"
#include "passes/registry.h"

namespace onnxfold::cli {
namespace {

Arguments compress_arguments() {
  Arguments arguments("compress IN.onnx -o OUT.onnx (--recipe NAME | --pass P | --target-size SIZE)... [options]",
                      "Runs passes over a model, checks the result against the original, and writes it.",
                      "compress model.onnx -o small.onnx --recipe int4 --data test.npz --max-accuracy-drop 1");
  arguments.positional(1, 1, "the model to read");
  arguments.value("output,o", "OUT.onnx", "the model to write");
  arguments.value("recipe", "NAME|FILE.yaml",
                  "recipe to run: " + fmt::format("{}", fmt::join(builtin_recipes(), ", ")));
  arguments.list("pass", "NAME[:OPTION=VALUE,...]", "pass to run, after the recipe if there is one (repeatable)");
  arguments.value("data", "D.npz|DIR", "data to check on: arrays named like the inputs; with labels for accuracy");
  arguments.value("samples", "N", "use only the first N samples of the data");
  arguments.value("calibration", "D.npz|DIR", "data for passes that learn from data; keep it apart from --data");
  arguments.value("calibration-samples", "N", "use only the first N samples of the calibration data");
  arguments.value("target-size", "SIZE",
                  "the file has at most this size: choose the format of every weight, or the ranks of tie-layers");
  arguments.value("target-bits", "B", "likewise for this many bits a weight, scales and zero points included");
  arguments.flag("auto", "search the smallest file that passes its gates");
  arguments.list("report", "FILE", "also write a report: .json, .xml (JUnit), .md or .html (repeatable)");
  arguments.flag("no-check", "write the result without comparing it with the original");
  arguments.flag("dry-run", "run the passes, predict size and memory, write nothing");
  arguments.flag("keep-failed", "keep a result that failed its gates as OUT.failed.onnx");
  arguments.value("controls", "auto|yes|no",
                  "beside a lossy result: what low rank and quantization cost at equal bytes (auto: if not too slow)");
  arguments.flag("bisect", "when the check fails, find the pass and the node that broke it");
  arguments.value("dump-after", "PASS|all", "print the model after this pass to stderr");
  add_gates(arguments);
  add_saving(arguments);
  add_common(arguments);
  return arguments;
}

Result<BudgetGoal> goal_of(const Arguments& arguments) {
  BudgetGoal goal;
  if (arguments.has("target-size")) {
    OF_ASSIGN(goal.size, arguments.size("target-size", 0));
  }
  OF_ASSIGN(goal.bits, arguments.number("target-bits"));
  if (goal.bits && !(*goal.bits > 0)) return fail(Code::kInvalidArgument, "--target-bits: must be above 0");
  goal.automatic = arguments.has("auto");
  if (static_cast<int>(goal.size.has_value()) + static_cast<int>(goal.bits.has_value()) +
          static_cast<int>(goal.automatic) >
      1) {
    return fail(Code::kInvalidArgument, "--target-size, --target-bits and --auto exclude each other");
  }
  return goal;
}

Result<Recipe> recipe_of(const Arguments& arguments, bool may_be_empty) {
  const Words passes = arguments.texts("pass");
  if (!may_be_empty && !arguments.has("recipe") && passes.empty()) {
    return fail(Code::kInvalidArgument, fmt::format("say what to do: --recipe {} (or a YAML file), or --pass NAME",
                                                    fmt::join(builtin_recipes(), "|")));
  }
  Recipe recipe;
  if (arguments.has("recipe")) {
    OF_ASSIGN(recipe, load_recipe(arguments.text("recipe")));
  }
  for (const std::string& text : passes) {
    OF_ASSIGN(RecipeStep step, parse_step(text));
    recipe.steps.push_back(std::move(step));
    recipe.name += (recipe.name.empty() ? "" : "+") + recipe.steps.back().pass;
  }
  return recipe;
}

Status set_dump(const Arguments& arguments, CompressOptions& options) {
  const std::string wanted = arguments.text("dump-after");
  if (wanted.empty()) return {};
  if (wanted != "all" && find_pass(wanted) == nullptr) {
    const std::string nearest = nearest_pass(wanted);
    return fail(Code::kInvalidArgument, fmt::format("--dump-after: there is no pass '{}'{}", wanted,
                                                    nearest.empty() ? "" : "; did you mean '" + nearest + "'?"));
  }
  options.after_changed = [wanted](const std::string& pass, const Model& model) -> Status {
    if (wanted == "all" || wanted == pass)
      std::cerr << "---- after " << pass << "\n" << dump(model, TensorText::kShape);
    return {};
  };
  return {};
}

Result<CompressOptions> compress_options(const Arguments& arguments, const Common& common) {
  CompressOptions options;
  options.source = arguments.words()[0];
  options.target = arguments.text("output");
  if (options.target.empty()) return fail(Code::kInvalidArgument, "missing -o OUT.onnx: where to write the result");
  OF_TRY(check_report_names(arguments.texts("report")));
  OF_ASSIGN(options.budget, goal_of(arguments));
  OF_ASSIGN(options.recipe, recipe_of(arguments, options.budget.any()));
  options.data = arguments.text("data");
  OF_ASSIGN(options.max_samples, arguments.integer("samples", 0, 1));
  options.calibration = arguments.text("calibration");
  OF_ASSIGN(options.calibration_samples, arguments.integer("calibration-samples", 0, 1));
  OF_ASSIGN(options.gates, gates_of(arguments));
  options.seed = common.seed;
  options.check = !arguments.has("no-check");
  if (!options.check && (!options.gates.empty() || !options.data.empty())) {
    return fail(Code::kInvalidArgument, "--no-check and gates or --data exclude each other");
  }
  options.dry_run = arguments.has("dry-run");
  options.keep_failed = arguments.has("keep-failed");
  options.bisect = arguments.has("bisect");
  const std::string controls = arguments.text("controls", "auto");
  if (controls != "auto" && controls != "yes" && controls != "no") {
    return fail(Code::kInvalidArgument, fmt::format("--controls: '{}' is none of auto, yes, no", controls));
  }
  options.controls = controls == "yes"  ? CompressOptions::Controls::kYes
                     : controls == "no" ? CompressOptions::Controls::kNo
                                        : CompressOptions::Controls::kAuto;
  OF_ASSIGN(options.save, saving_of(arguments));
  OF_TRY(set_dump(arguments, options));
  return options;
}

}  // namespace

Result<int> run_compress(const Words& words) {
  Arguments arguments = compress_arguments();
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_ASSIGN(const Common common, common_of(arguments));
  OF_ASSIGN(CompressOptions options, compress_options(arguments, common));
  return run_job(compress, std::move(options), common, arguments.texts("report"));
}

}  // namespace onnxfold::cli
