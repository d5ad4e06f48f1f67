// The verbs. Each takes the words after its name and gives the exit code of a run that did its work.
#pragma once

#include "cli/options.h"
#include "cli/progress.h"
#include "converter/report.h"

namespace onnxfold::cli {

Result<int> run_compress(const Words& words);
Result<int> run_merge(const Words& words);
Result<int> run_verify(const Words& words);
Result<int> run_run(const Words& words);
Result<int> run_analyze(const Words& words);
Result<int> run_inspect(const Words& words);
Result<int> run_convert(const Words& words);
Result<int> run_pack(const Words& words);
Result<int> run_unpack(const Words& words);
Result<int> run_passes(const Words& words);

// Exit codes, besides those of errors.
constexpr int kDone = 0, kGateFailed = 1;

// Errors: invalid_argument when a name of --report has no known extension; asked before the work starts.
Status check_report_names(const Words& paths);
// How a job ends: the report on stdout unless quiet, into the files of --report, and the line of a failed check on
// stderr. The exit code. Errors: io.
Result<int> present(const Report& report, const Common& common, const Words& paths);
// A job that makes a report, with a bar while it works and present() at its end. `options.progress` is set.
template <typename Options>
Result<int> run_job(Result<Report> (*job)(const Options&), Options options, const Common& common, const Words& paths) {
  Result<Report> report = [&] {
    Progress progress(common.quiet);
    options.progress = [&](const std::string& phase, double done) { progress.update(phase, done); };
    return job(options);
  }();
  if (!report) return fail(report.error());
  return present(*report, common, paths);
}
// The one line on stderr.
void warn(std::string_view kind, std::string message);

}  // namespace onnxfold::cli
