#include "cli/verbs.h"
#include "converter/compress.h"

namespace onnxfold::cli {

Result<int> run_verify(const Words& words) {
  Arguments arguments("verify A.onnx B.onnx [options]",
                      "Runs two models on the same data and compares their outputs. Exit code 1 when a gate fails.",
                      "verify model.onnx small.onnx --data test.npz --min-cosine 0.99");
  arguments.positional(2, 2, "the two models to compare");
  arguments.value("data", "D.npz|DIR", "data to run on (default: generated from the seed)");
  arguments.value("samples", "N", "use only the first N samples of the data");
  arguments.list("report", "FILE", "also write a report: .json, .xml (JUnit), .md or .html (repeatable)");
  add_gates(arguments);
  add_common(arguments);
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_ASSIGN(const Common common, common_of(arguments));
  OF_TRY(check_report_names(arguments.texts("report")));
  VerifyOptions options{arguments.words()[0], arguments.words()[1], arguments.text("data"), {}, common.seed, 0};
  OF_ASSIGN(options.gates, gates_of(arguments));
  OF_ASSIGN(options.max_samples, arguments.integer("samples", 0, 1));
  OF_ASSIGN(const Report report, verify_files(options));
  return present(report, common, arguments.texts("report"));
}

}  // namespace onnxfold::cli
