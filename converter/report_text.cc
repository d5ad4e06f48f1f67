#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "converter/report.h"
#include "passes/registry.h"

namespace onnxfold {
namespace {

void row(std::string& text, std::string_view label, const std::string& content) {
  text += fmt::format("{:<11} {}\n", label, content);
}

std::string factor(const Report& report) {
  const double before = static_cast<double>(report.source.bytes), after = static_cast<double>(report.target.bytes);
  if (after <= 0 || before <= 0 || after == before) return "";
  return after <= before ? fmt::format(" ({:.1f}x smaller)", before / after)
                         : fmt::format(" ({:.2f}x larger)", after / before);
}

// The denominator is every weight byte of the model, not only those the pass looked at.
std::string share(const Report& report, std::int64_t applied) {
  const double all = static_cast<double>(std::max(report.source.weight_bytes, applied));
  return all > 0 ? fmt::format("{:.1f} % of weight bytes", 100 * static_cast<double>(applied) / all) : "no weights";
}

void coverage_rows(std::string& text, const Report& report) {
  std::vector<std::string> done;
  for (const Coverage& each : report.coverage) {
    if (std::find(done.begin(), done.end(), each.pass) != done.end()) continue;
    done.push_back(each.pass);
    std::string line;
    std::int64_t applied = 0, kept = 0, kept_bytes = 0;
    std::vector<SkipReason> reasons;
    for (const Coverage& part : report.coverage) {
      if (part.pass != each.pass) continue;
      line += fmt::format("{}{} of {} {}", line.empty() ? "" : ", ", part.applied, part.total,
                          part.op_type.empty() ? "weights" : part.op_type);
      applied += part.applied_bytes;
      for (const SkipReason& reason : part.skipped) {
        kept += reason.count;
        kept_bytes += reason.bytes;
        auto found = std::find_if(reasons.begin(), reasons.end(),
                                  [&](const SkipReason& r) { return r.reason == reason.reason; });
        if (found == reasons.end()) found = reasons.insert(found, {reason.reason, 0, 0});
        found->count += reason.count;
      }
    }
    std::string why;
    for (const SkipReason& reason : reasons) {
      why += fmt::format("{}{}", why.empty() ? "" : "; ", reason.reason);
      if (kept_bytes > 0) why += fmt::format(" ({})", reason.count);
    }
    if (applied == 0 && kept_bytes == 0) {  // what was looked for is no weight, and is not there
      row(text, each.pass, "left the model as it is: " + why);
      continue;
    }
    row(text, each.pass, fmt::format("{} ({})", line, share(report, applied)));
    if (kept == 0) continue;
    row(text, "  kept", fmt::format("{}, {}: {}", kept, bytes_text(kept_bytes), why));
  }
}

// Passes that were asked for by themselves and neither changed anything nor said why.
void idle_rows(std::string& text, const Report& report) {
  std::vector<std::string> told;
  for (const PassRun& run : report.pipeline.runs) {
    if (run.changed) told.push_back(run.pass);
  }
  for (const Remark& remark : report.pipeline.remarks) told.push_back(remark.pass);
  for (const PassRun& run : report.pipeline.runs) {
    const PassInfo* info = find_pass(run.pass);
    if (info == nullptr || info->exactness != Exactness::kLossy) continue;
    if (std::find(told.begin(), told.end(), run.pass) != told.end()) continue;
    told.push_back(run.pass);
    row(text, run.pass, "found nothing to do");
  }
  if (!report.pipeline.changed && !report.pipeline.runs.empty()) row(text, "result", "no pass changed anything");
}

// Notes on the model as a whole and warnings are shown without -v as well, the first few of them.
void note_rows(std::string& text, const Report& report) {
  constexpr std::size_t kMost = 8;
  constexpr std::string_view kWarning = "warning: ";
  std::vector<std::string> told;
  for (const Remark& remark : report.pipeline.remarks) {
    const bool warns = remark.reason.starts_with(kWarning), whole = remark.node.empty() || remark.node == "model";
    if (remark.kind != Remark::Kind::kNote || (!warns && !whole)) continue;
    const std::string where = whole ? remark.pass : fmt::format("{}: {}", remark.pass, remark.node);
    const std::string content = fmt::format("{}: {}", where, remark.reason.substr(warns ? kWarning.size() : 0));
    if (std::find(told.begin(), told.end(), content) != told.end()) continue;
    told.push_back(content);
    if (told.size() <= kMost) row(text, warns ? "warning" : "note", content);
  }
  if (told.size() > kMost) row(text, "", fmt::format("... and {} more (-v shows all)", told.size() - kMost));
}

std::string task_text(const TaskMetrics& task) {
  if (task.kind == "accuracy") {
    return fmt::format("accuracy {:.2f} % -> {:.2f} %", 100 * task.before, 100 * task.after);
  }
  return fmt::format("{} {:.4g} -> {:.4g}", task.kind, task.before, task.after);
}

std::string metrics_text(const OutputMetrics& metrics) {
  if (metrics.shape_or_type_differs) return "shape or type differs";
  if (metrics.exact) return "same bits";
  std::string text = fmt::format("cosine {:.6f}, rel. error {:.3g}, max. error {:.3g}", metrics.cosine,
                                 metrics.max_rel_l2, metrics.max_abs);
  if (std::isfinite(metrics.sqnr_db)) text += fmt::format(", SQNR {:.1f} dB", metrics.sqnr_db);
  if (metrics.kl) text += fmt::format(", KL {:.3g}", *metrics.kl);
  if (metrics.top1) text += fmt::format(", top-1 agreement {:.2f} %", 100 * *metrics.top1);
  if (metrics.padding > 0) {
    text += fmt::format(" (without padding: {:.3g} % of the elements)",
                        100 * static_cast<double>(metrics.padding) / static_cast<double>(metrics.elements));
  }
  if (metrics.new_nan_or_inf) text += ", NEW NaN OR INFINITY";
  return text;
}

void check_rows(std::string& text, const Report& report, bool verbose) {
  if (!report.proof) {
    row(text, "check", report.not_checked.empty() ? "none" : "NOT CHECKED: " + report.not_checked);
    return;
  }
  const Comparison& comparison = report.proof->comparison;
  row(text, "check", comparison.data_origin);
  const std::size_t limit = verbose ? comparison.outputs.size() : 8;
  for (std::size_t i = 0; i < comparison.outputs.size() && i < limit; ++i) {
    const OutputMetrics& metrics = comparison.outputs[i];
    row(text, "", fmt::format("{}: {}", metrics.output, metrics_text(metrics)));
    if (!report.passed() && !metrics.worst_element.empty()) row(text, "", "  worst element " + metrics.worst_element);
  }
  if (comparison.outputs.size() > limit) {
    row(text, "", fmt::format("... and {} outputs more (-v shows all)", comparison.outputs.size() - limit));
  }
  if (comparison.task) row(text, "", task_text(*comparison.task));
  for (const GateResult& gate : report.proof->gates) {
    if (gate.passed && !verbose && report.proof->gates.size() > 4) continue;
    row(text, "gate",
        fmt::format("{} {:.6g} on {}: {} (measured {:.6g}{}{})", gate.gate, gate.limit, gate.output,
                    gate.passed ? "passed" : "FAILED", gate.measured, gate.detail.empty() ? "" : "; ", gate.detail));
  }
  if (!report.proof->why.empty()) row(text, "", report.proof->why);
  if (!report.passed() && !comparison.first_divergence.empty())
    row(text, "", "first apart at " + comparison.first_divergence);
}

void pass_rows(std::string& text, const Report& report) {
  for (const PassRun& run : report.pipeline.runs) {
    row(text, "pass",
        fmt::format("{}: {}, {} -> {} nodes, {:.3f} s", run.pass, run.changed ? "changed" : "no change",
                    run.nodes_before, run.nodes_after, run.seconds));
  }
  for (const Remark& remark : report.pipeline.remarks) {
    const char* kind = remark.kind == Remark::Kind::kApplied   ? "did"
                       : remark.kind == Remark::Kind::kSkipped ? "kept"
                                                               : "note";
    row(text, kind, fmt::format("{}: {}: {}", remark.pass, remark.node, remark.reason));
  }
}

std::string count_text(std::int64_t count) {
  const auto number = static_cast<double>(count);
  if (count >= 1000000000) return fmt::format("{:.2f} G", number / 1e9);
  if (count >= 1000000) return fmt::format("{:.2f} M", number / 1e6);
  return count >= 1000 ? fmt::format("{:.1f} k", number / 1e3) : fmt::format("{}", count);
}

void equal_bytes_rows(std::string& text, const EqualBytes& table) {
  if (!table.left_out.empty()) {
    row(text, "equal bytes", "not compared with low rank and quantization: " + table.left_out);
    return;
  }
  const std::string task = table.task == "accuracy" ? "accuracy" : table.task;
  row(text, "equal bytes", fmt::format("{:<38}{:>10}{:>16}{:>11}{:>11}", "method", "weights", task, "KL", "error"));
  for (const EqualBytesRow& each : table.rows) {
    if (!each.not_done.empty()) {
      row(text, "", fmt::format("{:<38}{:>10}  {}", each.method, bytes_text(each.weight_bytes), each.not_done));
      continue;
    }
    const std::string metric = !each.task                 ? ""
                               : table.task == "accuracy" ? fmt::format("{:.2f} %", 100 * *each.task)
                                                          : fmt::format("{:.4g}", *each.task);
    row(text, "",
        fmt::format("{:<38}{:>10}{:>16}{:>11}{:>11.3g}", each.method, bytes_text(each.weight_bytes), metric,
                    each.kl ? fmt::format("{:.3g}", *each.kl) : "", each.rel_l2));
  }
}

std::string similarity_text(const MergeLayerRow& layer) {
  const std::string text = fmt::format("similarity {:.3f} -> {:.3f}", layer.before, layer.after);
  if (layer.cost <= 0) return text;
  return text + fmt::format(", transport cost {:.4g}, sharpness {:.3f}", layer.cost, layer.sharpness);
}

// Every group of neurons, or the mean of all.
void layer_rows(std::string& text, const std::vector<MergeLayerRow>& layers, bool verbose) {
  if (layers.empty()) return;
  MergeLayerRow mean{"", "", 0, 0, 0, 0};
  for (const MergeLayerRow& layer : layers) {
    if (verbose) row(text, "layer", fmt::format("{} ({}): {}", layer.name, layer.kind, similarity_text(layer)));
    const double share = 1 / static_cast<double>(layers.size());
    mean.before += share * layer.before;
    mean.after += share * layer.after;
    mean.cost += share * layer.cost;
    mean.sharpness += share * layer.sharpness;
  }
  row(text, "layers",
      fmt::format("{} in the mean: {}{}", layers.size(), similarity_text(mean),
                  verbose ? "" : " (-v or --report: each)"));
}

void merge_rows(std::string& text, const Report& report, bool verbose) {
  const MergeFacts& merge = *report.merge;
  row(text, "method", merge.method);
  for (const std::string& note : merge.notes) row(text, "note", note);
  layer_rows(text, merge.layers, verbose);
  if (!merge.rows.empty()) {
    row(text, "scored on", merge.scored_on);
    row(text, "", fmt::format("{:<36}{:>10}{:>12}", "model", merge.task.empty() ? "" : merge.task, "KL"));
  }
  for (const MergeRow& each : merge.rows) {
    const std::string task = !each.task                 ? ""
                             : merge.task == "accuracy" ? fmt::format("{:.2f} %", 100 * *each.task)
                                                        : fmt::format("{:.4g}", *each.task);
    row(text, "", fmt::format("{:<36}{:>10}{:>12.4g}", each.model, task, each.kl));
  }
  if (!merge.verdict.empty()) row(text, merge.worse ? "WARNING" : "verdict", merge.verdict);
}

void budget_rows(std::string& text, const BudgetFacts& budget) {
  row(text, "goal", budget.goal);
  if (!budget.judged_on.empty()) row(text, "judged on", budget.judged_on);
  if (!budget.attempts.empty()) {
    row(text, "", fmt::format("{:>10}  {:>6}  {:<34}  {:<8}  {}", "size", "bits", "measured", "", "formats"));
  }
  for (const BudgetAttempt& attempt : budget.attempts) {
    row(text, "tried",
        fmt::format("{:>10}  {:>6.3f}  {:<34}  {:<8}  {}", bytes_text(attempt.bytes), attempt.bits, attempt.metric,
                    attempt.verdict, attempt.candidate));
  }
  for (const std::string& note : budget.notes) row(text, "note", note);
}

}  // namespace

std::string report_text(const Report& report, bool verbose) {
  std::string text = fmt::format("{}  ->  {}\n", report.source.path, report.target.path);
  if (report.merge) merge_rows(text, report, verbose);
  if (report.budget) budget_rows(text, *report.budget);
  if (report.verb == "compress") {
    const bool unwritten = report.target.bytes == 0 && !report.predicted;
    row(text, "size",
        fmt::format("{} -> {}{}{}", bytes_text(report.source.bytes), report.predicted ? "about " : "",
                    unwritten ? "not written" : bytes_text(report.target.bytes), factor(report)));
    row(text, "nodes", fmt::format("{} -> {}", report.source.nodes, report.target.nodes));
    if (report.source.parameters != report.target.parameters) {
      row(text, "parameters",
          fmt::format("{} -> {}", count_text(report.source.parameters), count_text(report.target.parameters)));
    }
    if (report.source.macs && report.target.macs) {
      row(text, "MACs",
          fmt::format("{} -> {} a sample", count_text(*report.source.macs), count_text(*report.target.macs)));
    }
    if (report.source.dead_bytes > 0) {
      row(text, "dead bytes", bytes_text(report.source.dead_bytes) + " of the input's external data, not copied");
    }
    if (verbose) pass_rows(text, report);
    coverage_rows(text, report);
    if (!verbose) note_rows(text, report);
    idle_rows(text, report);
  }
  if (!report.merge || report.proof) check_rows(text, report, verbose);
  if (report.equal_bytes) equal_bytes_rows(text, *report.equal_bytes);
  if (!report.culprit.empty()) row(text, "bisect", report.culprit);
  row(text, "time",
      fmt::format("{:.2f} s   peak memory {}{}", report.seconds, report.predicted ? "about " : "",
                  bytes_text(report.peak_memory_bytes)));
  if (report.predicted) row(text, "result", "dry run: nothing written");
  if (!report.passed() && report.verb != "verify") {
    row(text, "result",
        report.failed_path.empty() ? "check FAILED: nothing written" : "check FAILED: kept as " + report.failed_path);
  }
  return text;
}

}  // namespace onnxfold
