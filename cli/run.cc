#include <fmt/format.h>

#include <filesystem>
#include <iostream>
#include <sstream>

#include "cli/progress.h"
#include "cli/verbs.h"
#include "converter/run_model.h"
#include "formats/npz/npz.h"

namespace onnxfold::cli {
namespace {

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  std::stringstream stream(text);
  for (std::string name; std::getline(stream, name, ',');) {
    if (!name.empty()) names.push_back(name);
  }
  return names;
}

Result<std::map<std::string, Tensor>> run_file(const Arguments& arguments, const Common& common) {
  OF_ASSIGN(const std::unique_ptr<Model> model, load_model(arguments.words()[0]));
  ExecutorOptions options;
  if (arguments.has("float64")) options.precision = Precision::kFloat64;
  options.taps = split_names(arguments.text("taps"));
  DatasetOptions data_options;
  OF_ASSIGN(data_options.max_samples, arguments.integer("samples", 0, 1));
  const std::string path = arguments.text("data");
  OF_ASSIGN(const Dataset data,
            path.empty() ? generate_dataset(*model, common.seed) : load_dataset(*model, path, data_options));
  Progress progress(common.quiet);
  return run_model(*model, data, options, [&](double done) { progress.update("running", done); });
}

}  // namespace

Result<int> run_run(const Words& words) {
  Arguments arguments("run MODEL.onnx --data D.npz -o OUT.npz [options]",
                      "Runs a model with the reference executor and stores its outputs by name.",
                      "run model.onnx --data test.npz -o outputs.npz");
  arguments.positional(1, 1, "the model to run");
  arguments.value("data", "D.npz|DIR", "inputs, by name (default: generated from the seed)");
  arguments.value("samples", "N", "use only the first N samples of the data");
  arguments.value("output,o", "OUT.npz", "where to write the outputs");
  arguments.flag("float64", "compute every floating value in double precision, and store doubles");
  arguments.value("taps", "A,B,...", "also store these inner values");
  arguments.flag("force,f", "overwrite the target");
  add_common(arguments);
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_ASSIGN(const Common common, common_of(arguments));
  const std::string target = arguments.text("output");
  if (target.empty()) return fail(Code::kInvalidArgument, "missing -o OUT.npz: where to write the outputs");
  std::error_code ignored;
  if (std::filesystem::exists(target, ignored) && !arguments.has("force")) {
    return fail(Code::kInvalidArgument, fmt::format("'{}' exists; --force overwrites it", target));
  }
  OF_ASSIGN(const auto arrays, run_file(arguments, common));
  OF_TRY(save_npz(target, arrays));
  if (common.quiet) return kDone;
  for (const auto& [name, tensor] : arrays) {
    std::cout << name << ": " << to_string(Type::tensor(tensor.dtype(), tensor.dims())) << "\n";
  }
  return kDone;
}

}  // namespace onnxfold::cli
