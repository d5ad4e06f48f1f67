#include <fmt/format.h>

#include <filesystem>
#include <iostream>

#include "cli/progress.h"
#include "cli/verbs.h"
#include "formats/onnx/schema.h"

namespace onnxfold::cli {
namespace {

constexpr const char* kFormPass = "convert-blockwise-form";

Arguments convert_arguments() {
  Arguments arguments("convert IN.onnx -o OUT.onnx [options]",
                      "Rewrites a model: opset, place of the weights, form of low-bit weights.",
                      "convert model.onnx -o model21.onnx --opset 21 --external");
  arguments.positional(1, 1, "the model to read");
  arguments.value("output,o", "OUT.onnx", "the model to write");
  arguments.value("opset", "N", "raise the default domain to this opset");
  arguments.value("form", "matmulnbits|dequantizelinear", "store blockwise low-bit weights in this form");
  add_saving(arguments);
  add_common(arguments);
  return arguments;
}

Status convert_form(Model& model, const std::string& form, std::uint64_t seed) {
  OF_ASSIGN(RecipeStep step, parse_step(fmt::format("{}:to={}", kFormPass, form)));
  Recipe recipe;
  recipe.steps.push_back(std::move(step));
  PipelineOptions options;
  options.seed = seed;
  return run_pipeline(model, recipe, options).map([](const PipelineResult&) {});
}

Status check_target(const std::string& target, bool overwrite) {
  if (target.empty()) return fail(Code::kInvalidArgument, "missing -o OUT.onnx: where to write the result");
  std::error_code ignored;
  const auto status = std::filesystem::status(target, ignored);
  if (!std::filesystem::exists(status)) return {};
  if (!std::filesystem::is_regular_file(status)) {
    return fail(Code::kIo, fmt::format("cannot write '{}': it is not a regular file", target));
  }
  if (!overwrite) return fail(Code::kInvalidArgument, fmt::format("'{}' exists; --force overwrites it", target));
  return {};
}

}  // namespace

Result<int> run_convert(const Words& words) {
  Arguments arguments = convert_arguments();
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_ASSIGN(const Common common, common_of(arguments));
  OF_ASSIGN(SaveOptions save, saving_of(arguments));
  const std::string target = arguments.text("output");
  OF_TRY(check_target(target, save.overwrite));
  OF_ASSIGN(const std::int64_t opset, arguments.integer("opset", 0, 1));
  Progress progress(common.quiet);
  save.progress = [&](std::int64_t done, std::int64_t total) {
    progress.update("writing", total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
  };
  LoadStats before;
  OF_ASSIGN(const std::unique_ptr<Model> model, load_model(arguments.words()[0], &before));
  save.described = described_values(*model);
  if (opset > 0) OF_TRY(convert_opset(*model, opset));
  if (arguments.has("form")) OF_TRY(convert_form(*model, arguments.text("form"), common.seed));
  OF_ASSIGN(const SaveStats after, save_model(*model, target, save));
  if (common.quiet) return kDone;
  std::cout << arguments.words()[0] << "  ->  " << target << "\n"
            << "size        " << bytes_text(before.file_bytes + before.external_bytes) << " -> "
            << bytes_text(after.file_bytes + after.external_bytes) << "\n";
  return kDone;
}

}  // namespace onnxfold::cli
