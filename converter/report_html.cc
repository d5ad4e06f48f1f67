#include <fmt/format.h>

#include "converter/markup.h"
#include "converter/report.h"
#include "converter/version.h"

namespace onnxfold {
namespace {

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .7em;text-align:left}"
    ".ok{color:#176b2c}.bad{color:#b00020;font-weight:bold}.bar{background:#4a78b5;height:1em}";

using Row = std::vector<std::string>;

std::string table(const Row& head, const std::vector<Row>& rows) {
  std::string text = "<table><tr>";
  for (const std::string& cell : head) text += "<th>" + escape_markup(cell) + "</th>";
  text += "</tr>\n";
  for (const Row& row : rows) {
    text += "<tr>";
    for (const std::string& cell : row) text += "<td>" + escape_markup(cell) + "</td>";
    text += "</tr>\n";
  }
  return text + "</table>\n";
}

std::string size_bars(const Report& report) {
  const double largest = static_cast<double>(std::max<std::int64_t>({report.source.bytes, report.target.bytes, 1}));
  std::string text = "<h2>Size</h2>\n";
  for (const auto& [label, bytes] :
       {std::pair("before", report.source.bytes), std::pair("after", report.target.bytes)}) {
    text += fmt::format("<div>{}: {}</div><div class=\"bar\" style=\"width:{:.2f}%\"></div>\n", label,
                        bytes_text(bytes), 100 * static_cast<double>(bytes) / largest);
  }
  return text;
}

std::string coverage_section(const Report& report) {
  std::vector<Row> rows;
  for (const Coverage& row : report.coverage) {
    std::string why;
    for (const SkipReason& reason : row.skipped) why += fmt::format("{} ({}) ", reason.reason, reason.count);
    rows.push_back({row.pass, row.op_type, fmt::format("{} of {}", row.applied, row.total),
                    fmt::format("{} of {}", bytes_text(row.applied_bytes), bytes_text(row.total_bytes)), why});
  }
  return "<h2>Coverage</h2>\n" + table({"pass", "operator", "changed", "weight bytes", "kept because"}, rows);
}

std::string check_section(const Report& report) {
  if (!report.proof)
    return "<h2>Check</h2><p class=\"bad\">Not checked: " + escape_markup(report.not_checked) + "</p>\n";
  const Comparison& comparison = report.proof->comparison;
  std::vector<Row> rows, gates;
  for (const OutputMetrics& m : comparison.outputs) {
    rows.push_back({m.output, fmt::format("{:.6f}", m.cosine), fmt::format("{:.3g}", m.max_rel_l2),
                    fmt::format("{:.3g}", m.max_abs), fmt::format("{:.1f}", m.sqnr_db), m.worst_element});
  }
  for (const GateResult& gate : report.proof->gates) {
    gates.push_back({gate.gate, gate.output, fmt::format("{:.6g}", gate.limit), fmt::format("{:.6g}", gate.measured),
                     gate.passed ? "passed" : "FAILED", gate.detail});
  }
  std::string text = "<h2>Check</h2><p>" + escape_markup(comparison.data_origin) + "</p>\n";
  text += table({"output", "cosine", "relative error", "largest error", "SQNR dB", "worst element"}, rows);
  if (const auto& task = comparison.task) {
    text +=
        fmt::format("<p>{}: {:.4g} before, {:.4g} after</p>\n", escape_markup(task->kind), task->before, task->after);
  }
  text += table({"gate", "on", "limit", "measured", "", "detail"}, gates);
  return text + "<p>" + escape_markup(report.proof->why) + "</p>\n";
}

std::string pass_section(const Report& report) {
  std::vector<Row> rows;
  for (const PassRun& run : report.pipeline.runs) {
    rows.push_back({run.pass, run.changed ? "changed" : "no change",
                    fmt::format("{} -> {}", run.nodes_before, run.nodes_after), fmt::format("{:.3f}", run.seconds)});
  }
  return rows.empty() ? "" : "<h2>Passes</h2>\n" + table({"pass", "", "nodes", "seconds"}, rows);
}

std::string merge_section(const MergeFacts& merge) {
  std::vector<Row> rows, layers;
  for (const MergeRow& row : merge.rows) {
    rows.push_back({row.model, row.task ? fmt::format("{:.4g}", *row.task) : "", fmt::format("{:.4g}", row.kl)});
  }
  for (const MergeLayerRow& layer : merge.layers) {
    layers.push_back({layer.name, layer.kind, fmt::format("{:.3f}", layer.before), fmt::format("{:.3f}", layer.after),
                      fmt::format("{:.4g}", layer.cost), fmt::format("{:.3f}", layer.sharpness)});
  }
  std::string text = "<h2>Merge</h2><p>Method " + escape_markup(merge.method) + "</p>\n";
  if (!rows.empty()) text += table({"model", merge.task, "KL to the ensemble"}, rows);
  if (!merge.verdict.empty()) {
    text += fmt::format("<p class=\"{}\">{}</p>\n", merge.worse ? "bad" : "ok", escape_markup(merge.verdict));
  }
  if (!layers.empty())
    text += table({"layer", "neurons", "similarity before", "after", "transport cost", "sharpness"}, layers);
  return text;
}

std::string equal_bytes_section(const EqualBytes& table_of) {
  if (!table_of.left_out.empty())
    return "<p>Not compared at equal bytes: " + escape_markup(table_of.left_out) + "</p>\n";
  std::vector<Row> rows;
  for (const EqualBytesRow& row : table_of.rows) {
    rows.push_back({row.method, bytes_text(row.weight_bytes), row.task ? fmt::format("{:.4g}", *row.task) : "",
                    row.kl ? fmt::format("{:.3g}", *row.kl) : "",
                    row.not_done.empty() ? fmt::format("{:.3g}", row.rel_l2) : row.not_done});
  }
  return "<h2>At equal bytes</h2>\n" + table({"method", "weights", table_of.task, "KL", "relative error"}, rows);
}

}  // namespace

std::string report_html(const Report& report) {
  std::string body =
      fmt::format("<h1>{} &rarr; {}</h1>\n", escape_markup(report.source.path), escape_markup(report.target.path));
  body += report.passed() ? "<p class=\"ok\">passed</p>\n" : "<p class=\"bad\">FAILED</p>\n";
  body += size_bars(report);
  if (report.merge) body += merge_section(*report.merge);
  if (!report.coverage.empty()) body += coverage_section(report);
  if (report.equal_bytes) body += equal_bytes_section(*report.equal_bytes);
  body += check_section(report) + pass_section(report);
  body += fmt::format("<p>{:.2f} s, peak memory {}, onnxfold {}</p>\n", report.seconds,
                      bytes_text(report.peak_memory_bytes), version());
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>onnxfold {}</title>"
      "<style>{}</style></head>\n<body>\n{}</body></html>\n",
      report.verb, kStyle, body);
}

}  // namespace onnxfold
