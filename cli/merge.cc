#include "converter/merge.h"

#include <fmt/format.h>

#include <iostream>
#include <sstream>

#include "cli/verbs.h"
#include "passes/merge/method.h"

namespace onnxfold::cli {
namespace {

Arguments merge_arguments() {
  Arguments arguments("merge A.onnx B.onnx [C.onnx...] -o OUT.onnx [options]",
                      "Merges models of one architecture. The last one is the anchor: the result has its graph and "
                      "names. Reports parents, their ensemble, controls and the result side by side.",
                      "merge a.onnx b.onnx -o ab.onnx --calibration unlabelled.npz --data test.npz");
  std::vector<std::string_view> names;
  for (const MergeMethod& method : merge_methods()) names.push_back(method.name);
  arguments.positional(0, 64, "the models to merge");
  arguments.value("output,o", "OUT.onnx", "the model to write");
  arguments.value("method", "NAME[:OPTION=VALUE,...]",
                  fmt::format("one of {} (default: with --base what does best on labelled data, else ties; without, "
                              "align with data, average "
                              "without); NAME:help lists its options",
                              fmt::join(names, ", ")));
  arguments.value("weights", "W1,W2,...", "weight of every model (default: equal)");
  arguments.list("pattern", "GLOB=W1,W2,...",
                 "other weights where the name of a weight or its node matches (repeatable)");
  arguments.value("base", "BASE.onnx", "the model that all were tuned from, for methods on task vectors");
  arguments.value("recipe", "FILE.yaml", "models, method, weights and parameters in mergekit's form");
  arguments.value("data", "D.npz|DIR", "data to score on: arrays named like the inputs; with labels for accuracy");
  arguments.value("samples", "N", "use only the first N samples of the data");
  arguments.value("calibration", "D.npz|DIR", "unlabelled data to align and repair with; keep it apart from --data");
  arguments.value("calibration-samples", "N", "use only the first N samples of the calibration data");
  arguments.list("report", "FILE", "also write a report: .json, .xml (JUnit), .md or .html (repeatable)");
  arguments.flag("no-check", "write the result without scoring it");
  arguments.flag("dry-run", "merge and score, write nothing");
  arguments.flag("keep-failed", "keep a result that failed its gates as OUT.failed.onnx");
  add_gates(arguments);
  add_saving(arguments);
  add_common(arguments);
  return arguments;
}

Result<std::vector<double>> numbers_of(const std::string& text, const std::string& option) {
  std::vector<double> numbers;
  std::stringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) {
    std::size_t used = 0;
    double number = 0;
    try {
      number = std::stod(item, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used == 0 || used != item.size()) {
      return fail(Code::kInvalidArgument, fmt::format("{}: '{}' is no number", option, item));
    }
    numbers.push_back(number);
  }
  if (numbers.empty()) return fail(Code::kInvalidArgument, fmt::format("{}: expected numbers", option));
  return numbers;
}

// NAME[:OPTION=VALUE,...]
Status set_method(const std::string& text, MergeOptions& options) {
  const std::size_t colon = text.find(':');
  options.method = text.substr(0, colon);
  if (colon == std::string::npos) return {};
  std::stringstream stream(text.substr(colon + 1));
  for (std::string item; std::getline(stream, item, ',');) {
    const std::size_t equals = item.find('=');
    if (equals == std::string::npos) {
      return fail(Code::kInvalidArgument, fmt::format("--method: '{}' is not OPTION=VALUE", item));
    }
    options.options[item.substr(0, equals)] = item.substr(equals + 1);
  }
  return {};
}

Status set_models(const Arguments& arguments, MergeOptions& options) {
  if (arguments.has("recipe")) {
    if (!arguments.words().empty()) return fail(Code::kInvalidArgument, "--recipe names the models: give none besides");
    OF_TRY(read_merge_recipe(arguments.text("recipe"), options));
  } else {
    options.sources = arguments.words();
  }
  if (arguments.has("method")) OF_TRY(set_method(arguments.text("method"), options));
  if (arguments.has("base")) options.base = arguments.text("base");
  if (arguments.has("weights")) {
    OF_ASSIGN(options.weights, numbers_of(arguments.text("weights"), "--weights"));
  }
  for (const std::string& text : arguments.texts("pattern")) {
    const std::size_t equals = text.rfind('=');
    if (equals == std::string::npos) return fail(Code::kInvalidArgument, "--pattern: expected GLOB=W1,W2,...");
    OF_ASSIGN(std::vector<double> weights, numbers_of(text.substr(equals + 1), "--pattern"));
    options.patterns.push_back({text.substr(0, equals), std::move(weights), {}});
  }
  return {};
}

Result<MergeOptions> merge_options(const Arguments& arguments, const Common& common) {
  MergeOptions options;
  options.target = arguments.text("output");
  if (options.target.empty()) return fail(Code::kInvalidArgument, "missing -o OUT.onnx: where to write the result");
  OF_TRY(check_report_names(arguments.texts("report")));
  OF_TRY(set_models(arguments, options));
  options.data = arguments.text("data");
  OF_ASSIGN(options.max_samples, arguments.integer("samples", 0, 1));
  options.calibration = arguments.text("calibration");
  OF_ASSIGN(options.calibration_samples, arguments.integer("calibration-samples", 0, 1));
  OF_ASSIGN(options.gates, gates_of(arguments));
  options.seed = common.seed;
  options.check = !arguments.has("no-check");
  if (!options.check && !options.gates.empty()) {
    return fail(Code::kInvalidArgument, "--no-check and gates exclude each other");
  }
  options.dry_run = arguments.has("dry-run");
  options.keep_failed = arguments.has("keep-failed");
  OF_ASSIGN(options.save, saving_of(arguments));
  return options;
}

// `--method NAME:help`
bool print_method_help(const Arguments& arguments) {
  const std::string text = arguments.text("method");
  const std::size_t colon = text.find(":help");
  if (colon == std::string::npos) return false;
  const MergeMethod* method = find_merge_method(text.substr(0, colon));
  if (method == nullptr) return false;
  std::cout << fmt::format("{}: {}\n", method->name, method->summary);
  for (const OptionSpec& option : method->options) {
    std::cout << fmt::format("  {:<14} {} (default {}{}{})\n", option.name, option.help, option.fallback,
                             option.choices.empty() ? "" : "; ", option.choices);
  }
  return true;
}

}  // namespace

Result<int> run_merge(const Words& words) {
  Arguments arguments = merge_arguments();
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on || print_method_help(arguments)) return kDone;
  OF_ASSIGN(const Common common, common_of(arguments));
  OF_ASSIGN(MergeOptions options, merge_options(arguments, common));
  return run_job(merge_models, std::move(options), common, arguments.texts("report"));
}

}  // namespace onnxfold::cli
