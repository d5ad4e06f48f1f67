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

Result<std::map<std::string, Tensor>> run_file(const Arguments& arguments, const Common& common,
                                               IntegerCounts& counts) {
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
  if (arguments.has("integers")) {
    if (arguments.has("float64")) return fail(Code::kInvalidArgument, "--integers and --float64 exclude each other");
    return run_model_on_integers(*model, data, options.taps, counts,
                                 [&](double done) { progress.update("running on integers", done); });
  }
  return run_model(*model, data, options, [&](double done) { progress.update("running", done); });
}

std::string integer_text(const IntegerCounts& counts) {
  std::string text =
      fmt::format("{} nodes ran on integers; largest sum {} ({})\n", counts.integer, counts.largest_sum, counts.where);
  for (const auto& [label, largest] : counts.beyond) {
    text += fmt::format("beyond 2^24 steps, where float32 rounds: {} ({})\n", largest, label);
  }
  for (const auto& [op, count] : counts.floats) text += fmt::format("on floats: {} {}\n", count, op);
  return text;
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
  arguments.flag("integers", "compute models of pass bct with integers, and say what was computed with floats");
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
  IntegerCounts counts;
  OF_ASSIGN(const auto arrays, run_file(arguments, common, counts));
  OF_TRY(save_npz(target, arrays));
  if (common.quiet) return kDone;
  for (const auto& [name, tensor] : arrays) {
    std::cout << name << ": " << to_string(Type::tensor(tensor.dtype(), tensor.dims())) << "\n";
  }
  if (arguments.has("integers")) std::cout << integer_text(counts);
  return kDone;
}

}  // namespace onnxfold::cli
