#include "converter/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "passes/registry.h"

namespace onnxfold {
namespace {

void add_reason(std::vector<SkipReason>& reasons, const Remark& remark) {
  auto found =
      std::find_if(reasons.begin(), reasons.end(), [&](const SkipReason& r) { return r.reason == remark.reason; });
  if (found == reasons.end()) found = reasons.insert(found, {remark.reason, 0, 0});
  ++found->count;
  found->bytes += remark.weight_bytes;
}

}  // namespace

std::vector<Coverage> coverage_of(const PipelineResult& result) {
  std::vector<Coverage> rows;
  for (const Remark& remark : result.remarks) {
    const PassInfo* info = find_pass(remark.pass);
    if (remark.kind == Remark::Kind::kNote || info == nullptr || info->exactness != Exactness::kLossy) continue;
    auto row = std::find_if(rows.begin(), rows.end(),
                            [&](const Coverage& c) { return c.pass == remark.pass && c.op_type == remark.op_type; });
    if (row == rows.end()) row = rows.insert(row, {remark.pass, remark.op_type, 0, 0, 0, 0, {}});
    ++row->total;
    row->total_bytes += remark.weight_bytes;
    if (remark.kind == Remark::Kind::kSkipped) {
      add_reason(row->skipped, remark);
      continue;
    }
    ++row->applied;
    row->applied_bytes += remark.weight_bytes;
  }
  for (Coverage& row : rows) {
    std::stable_sort(row.skipped.begin(), row.skipped.end(),
                     [](const SkipReason& a, const SkipReason& b) { return a.bytes > b.bytes; });
  }
  return rows;
}

std::string bytes_text(std::int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  const char* const units[] = {"kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  value /= 1000;
  while (value >= 999.95 && unit + 1 < std::size(units)) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, units[unit]);
}

Result<std::string> render_report(const Report& report, const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension == ".json") return report_json(report);
  if (extension == ".xml") return report_junit(report);
  if (extension == ".md") return report_markdown(report);
  if (extension == ".html" || extension == ".htm") return report_html(report);
  return fail(Code::kInvalidArgument,
              fmt::format("--report '{}': the name must end in .json, .xml, .md or .html", path));
}

}  // namespace onnxfold
