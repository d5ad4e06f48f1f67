#include <fmt/format.h>

#include "converter/report.h"

namespace onnxfold {
namespace {

std::string cell(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result;
}

std::string coverage_table(const Report& report) {
  std::string text = "\n| pass | operator | changed | weight bytes | kept because |\n| --- | --- | --- | --- | --- |\n";
  for (const Coverage& row : report.coverage) {
    std::string why;
    for (const SkipReason& reason : row.skipped) {
      why += fmt::format("{}{} ({})", why.empty() ? "" : "; ", reason.reason, reason.count);
    }
    text += fmt::format("| {} | {} | {} of {} | {} of {} | {} |\n", row.pass, row.op_type, row.applied, row.total,
                        bytes_text(row.applied_bytes), bytes_text(row.total_bytes), cell(why));
  }
  return text;
}

std::string check_tables(const Proof& proof) {
  std::string text = fmt::format("\nChecked on {}.\n\n| output | cosine | relative error | largest error |\n",
                                 proof.comparison.data_origin);
  text += "| --- | --- | --- | --- |\n";
  for (const OutputMetrics& m : proof.comparison.outputs) {
    text += fmt::format("| {} | {:.6f} | {:.3g} | {:.3g} |\n", cell(m.output), m.cosine, m.max_rel_l2, m.max_abs);
  }
  if (const auto& task = proof.comparison.task) {
    text += fmt::format("\n{}: {:.4g} before, {:.4g} after ({} samples).\n", task->kind, task->before, task->after,
                        task->samples);
  }
  text += "\n| gate | on | limit | measured | |\n| --- | --- | --- | --- | --- |\n";
  for (const GateResult& gate : proof.gates) {
    text += fmt::format("| {} | {} | {:.6g} | {:.6g} | {} |\n", gate.gate, cell(gate.output), gate.limit, gate.measured,
                        gate.passed ? "passed" : "**FAILED** " + cell(gate.detail));
  }
  if (!proof.why.empty()) text += "\n" + proof.why + "\n";
  return text;
}

std::string layer_table(const std::vector<MergeLayerRow>& layers) {
  if (layers.empty()) return "";
  std::string text =
      "\n| layer | neurons | similarity before | after | transport cost | sharpness |\n"
      "| --- | --- | --- | --- | --- | --- |\n";
  for (const MergeLayerRow& layer : layers) {
    text += fmt::format("| {} | {} | {:.3f} | {:.3f} | {:.4g} | {:.3f} |\n", cell(layer.name), layer.kind, layer.before,
                        layer.after, layer.cost, layer.sharpness);
  }
  return text;
}

std::string merge_table(const MergeFacts& merge) {
  std::string text = fmt::format("\nMethod {}.\n", merge.method) + layer_table(merge.layers);
  if (merge.rows.empty()) return text;
  text += fmt::format("\n| model | {} | KL to the ensemble |\n| --- | --- | --- |\n",
                      merge.task.empty() ? "task" : merge.task);
  for (const MergeRow& row : merge.rows) {
    text += fmt::format("| {} | {} | {:.4g} |\n", cell(row.model), row.task ? fmt::format("{:.4g}", *row.task) : "",
                        row.kl);
  }
  return text + fmt::format("\n{}{}\n", merge.worse ? "**Warning**: " : "", merge.verdict);
}

std::string equal_bytes_table(const EqualBytes& table) {
  if (!table.left_out.empty()) return fmt::format("\nNot compared at equal bytes: {}\n", table.left_out);
  std::string text = fmt::format("\n| at equal bytes | weights | {} | KL | relative error |\n",
                                 table.task.empty() ? "task" : table.task);
  text += "| --- | --- | --- | --- | --- |\n";
  for (const EqualBytesRow& row : table.rows) {
    const bool done = row.not_done.empty();
    text += fmt::format("| {} | {} | {} | {} | {} |\n", cell(row.method), bytes_text(row.weight_bytes),
                        row.task ? fmt::format("{:.4g}", *row.task) : "", row.kl ? fmt::format("{:.3g}", *row.kl) : "",
                        done ? fmt::format("{:.3g}", row.rel_l2) : cell(row.not_done));
  }
  return text;
}

std::string budget_table(const BudgetFacts& budget) {
  std::string text = fmt::format("\nGoal: {}.\n\n", budget.goal);
  if (!budget.attempts.empty()) {
    text += "| tried | size | bits a weight | measured | |\n| --- | --- | --- | --- | --- |\n";
  }
  for (const BudgetAttempt& each : budget.attempts) {
    text += fmt::format("| {} | {} | {:.3f} | {} | {} |\n", cell(each.candidate), bytes_text(each.bytes), each.bits,
                        cell(each.metric), each.verdict);
  }
  for (const std::string& note : budget.notes) text += "\n" + note + "\n";
  return text;
}

}  // namespace

std::string report_markdown(const Report& report) {
  std::string text = fmt::format("### onnxfold {}: {}\n\n`{}` -> `{}`\n", report.verb,
                                 report.passed() ? "passed" : "FAILED", report.source.path, report.target.path);
  text += "\n| | before | after |\n| --- | --- | --- |\n";
  text += fmt::format("| size | {} | {} |\n", bytes_text(report.source.bytes), bytes_text(report.target.bytes));
  text += fmt::format("| nodes | {} | {} |\n", report.source.nodes, report.target.nodes);
  if (report.source.parameters != report.target.parameters) {
    text += fmt::format("| parameters | {} | {} |\n", report.source.parameters, report.target.parameters);
  }
  if (report.source.macs && report.target.macs) {
    text += fmt::format("| MACs a sample | {} | {} |\n", *report.source.macs, *report.target.macs);
  }
  if (report.merge) text += merge_table(*report.merge);
  if (report.budget) text += budget_table(*report.budget);
  if (!report.coverage.empty()) text += coverage_table(report);
  text += report.proof ? check_tables(*report.proof) : fmt::format("\n**Not checked**: {}\n", report.not_checked);
  if (report.equal_bytes) text += equal_bytes_table(*report.equal_bytes);
  return text + fmt::format("\n{:.2f} s, peak memory {}\n", report.seconds, bytes_text(report.peak_memory_bytes));
}

}  // namespace onnxfold
