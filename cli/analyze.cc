#include "converter/analyze.h"

#include <fstream>
#include <iostream>

#include "cli/progress.h"
#include "cli/verbs.h"
#include "converter/bct_table.h"

namespace onnxfold::cli {

namespace {

struct Rendered {
  std::string text, json;
};

Result<Rendered> analyzed(const Arguments& arguments, const AnalyzeOptions& options) {
  if (arguments.has("sensitivity")) {
    OF_ASSIGN(const SensitivityAnalysis analysis, analyze_sensitivity(options));
    return Rendered{sensitivity_text(analysis), sensitivity_json(analysis)};
  }
  OF_ASSIGN(const Analysis analysis, analyze(options));
  return Rendered{analysis_text(analysis), analysis_json(analysis)};
}

Result<int> analyze_bct(const Arguments& arguments, const Common& common) {
  BctTableOptions options;
  options.path = arguments.words()[0];
  options.data = arguments.text("data");
  options.calibration = arguments.text("calibration");
  options.seed = common.seed;
  OF_ASSIGN(options.max_samples, arguments.integer("samples", 0, 1));
  OF_ASSIGN(const std::int64_t bits, arguments.integer("bits", 4, 2));
  if (bits > 8) return fail(Code::kInvalidArgument, "--bits: blocks hold 2 to 8 bits");
  options.bits = static_cast<int>(bits);
  BctTable table;
  {
    Progress progress(common.quiet);
    options.progress = [&](double done) { progress.update("measuring", done); };
    OF_ASSIGN(table, measure_bct(options));
  }
  std::cout << bct_table_text(table);
  return kDone;
}

}  // namespace

Result<int> run_analyze(const Words& words) {
  Arguments arguments("analyze MODEL.onnx [--depth | --sensitivity | --paths --attention...] [--data D.npz] [--json]",
                      "Measures what the parts of a model do on data, and says what could be done about it.",
                      "analyze model.onnx --depth --data samples.npz");
  arguments.positional(1, 1, "the model to analyze");
  arguments.flag("depth", "what each block adds, what happens without it (the default)");
  arguments.flag("paths", "what each addend of the residual stream gives to the outputs");
  arguments.flag("attention", "what each head looks at: spans, first token, entropy, uniform heads");
  arguments.flag("linearity", "how far weights lie on a line over depth, against the null");
  arguments.flag("hidden", "how many hidden neurons and channels carry the activity");
  arguments.flag("lut", "whether tables could take the place of products");
  arguments.flag("sensitivity", "what every weight costs at the outputs when it alone has 2, 4 or 8 bits");
  arguments.flag("bct", "size and error of pass bct for blocks of 32 to 4096, with --bits N and --calibration F.npz");
  arguments.value("bits", "N", "bits of constants for --bct (default 4)");
  arguments.value("calibration", "F.npz", "for --bct: data to see ranges of intermediate results on");
  arguments.value("data", "D.npz", "data to measure on, labels or next tokens with it or not; else generated");
  arguments.value("samples", "N", "read at most N samples of the data");
  arguments.flag("json", "print JSON");
  arguments.value("report", "F.json", "write the JSON to a file as well");
  add_common(arguments);
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_ASSIGN(const Common common, common_of(arguments));
  if (arguments.has("bct")) return analyze_bct(arguments, common);
  AnalyzeOptions options;
  options.path = arguments.words()[0];
  for (const char* name : {"paths", "attention", "linearity", "hidden", "lut"}) {
    if (arguments.has(name)) options.tables.emplace_back(name);
  }
  options.depth = arguments.has("depth") || options.tables.empty();
  options.data = arguments.text("data");
  options.seed = common.seed;
  OF_ASSIGN(options.max_samples, arguments.integer("samples", 0, 1));
  const std::string report = arguments.text("report");
  if (!report.empty() && !report.ends_with(".json")) {
    return fail(Code::kInvalidArgument, "--report: '" + report + "' does not end in .json");
  }
  if (arguments.has("sensitivity") && (arguments.has("depth") || !options.tables.empty())) {
    return fail(Code::kInvalidArgument, "--sensitivity stands alone");
  }
  Result<Rendered> rendered = [&] {
    Progress progress(common.quiet);
    options.progress = [&](const std::string& phase, double done) { progress.update(phase, done); };
    return analyzed(arguments, options);
  }();
  if (!rendered) return fail(rendered.error());
  std::cout << (arguments.has("json") ? rendered->json : rendered->text);
  if (report.empty()) return kDone;
  std::ofstream file(report);
  if (!(file << rendered->json).flush()) return fail(Code::kIo, "cannot write '" + report + "'");
  return kDone;
}

}  // namespace onnxfold::cli
