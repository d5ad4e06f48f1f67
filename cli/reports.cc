#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "cli/verbs.h"
#include "formats/pending_files.h"

namespace onnxfold::cli {
namespace {

// Devices and pipes are written to as they are; files appear complete or not at all.
Status write_text(const std::string& path, const std::string& text) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    std::ofstream file(path);
    if (!(file << text << std::flush)) return fail(Code::kIo, fmt::format("cannot write '{}'", path));
    return {};
  }
  OF_ASSIGN(PendingFile file, PendingFile::create(path));
  OF_TRY(file.write(text.data(), text.size()));
  return file.commit();
}

Status write_reports(const Report& report, const Words& paths) {
  for (const std::string& path : paths) {
    OF_ASSIGN(const std::string text, render_report(report, path));
    OF_TRY(write_text(path, text));
  }
  return {};
}

}  // namespace

Status check_report_names(const Words& paths) {
  for (const std::string& path : paths) {
    if (const auto rendered = render_report(Report(), path); !rendered) return fail(rendered.error());
  }
  return {};
}

Result<int> present(const Report& report, const Common& common, const Words& paths) {
  if (!common.quiet) std::cout << report_text(report, common.verbose) << std::flush;
  OF_TRY(write_reports(report, paths));
  if (report.passed()) return kDone;
  warn("error", fmt::format("the check failed: {}", report.proof->why));
  if (!report.culprit.empty()) warn("bisect", report.culprit);
  return kGateFailed;
}

void warn(std::string_view kind, std::string message) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fputs(fmt::format("onnxfold: {}: {}\n", kind, message).c_str(), stderr);
}

}  // namespace onnxfold::cli
