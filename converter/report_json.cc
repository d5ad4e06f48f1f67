#include <cmath>
#include <nlohmann/json.hpp>

#include "converter/report.h"
#include "converter/version.h"

namespace onnxfold {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity and no NaN.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
Json number(const std::optional<double>& value) { return value ? number(*value) : Json(nullptr); }

Json facts(const ModelFacts& model) {
  return {{"path", model.path},
          {"bytes", model.bytes},
          {"external_bytes", model.external_bytes},
          {"dead_bytes", model.dead_bytes},
          {"nodes", model.nodes},
          {"weight_bytes", model.weight_bytes},
          {"parameters", model.parameters},
          {"macs", model.macs ? Json(*model.macs) : Json(nullptr)},
          {"xxh128", model.xxh128.empty() ? Json(nullptr) : Json(model.xxh128)}};
}

Json coverage(const std::vector<Coverage>& rows) {
  Json list = Json::array();
  for (const Coverage& row : rows) {
    Json skipped = Json::array();
    for (const SkipReason& reason : row.skipped) {
      skipped.push_back({{"reason", reason.reason}, {"count", reason.count}, {"bytes", reason.bytes}});
    }
    list.push_back({{"pass", row.pass},
                    {"operator", row.op_type},
                    {"applied", row.applied},
                    {"total", row.total},
                    {"applied_bytes", row.applied_bytes},
                    {"total_bytes", row.total_bytes},
                    {"skipped", std::move(skipped)}});
  }
  return list;
}

Json outputs(const Comparison& comparison) {
  Json list = Json::array();
  for (const OutputMetrics& m : comparison.outputs) {
    list.push_back({{"output", m.output},
                    {"same_bits", m.exact},
                    {"max_abs", number(m.max_abs)},
                    {"max_rel_l2", number(m.max_rel_l2)},
                    {"cosine", number(m.cosine)},
                    {"sqnr_db", number(m.sqnr_db)},
                    {"kl", number(m.kl)},
                    {"top1", number(m.top1)},
                    {"worst_element", m.worst_element},
                    {"new_nan_or_inf", m.new_nan_or_inf},
                    {"shape_or_type_differs", m.shape_or_type_differs},
                    {"elements", m.elements},
                    {"padding", m.padding}});
  }
  return list;
}

Json check(const Report& report) {
  if (!report.proof) return {{"done", false}, {"why_not", report.not_checked}};
  const Comparison& comparison = report.proof->comparison;
  Json gates = Json::array();
  for (const GateResult& gate : report.proof->gates) {
    gates.push_back({{"gate", gate.gate},
                     {"output", gate.output},
                     {"limit", number(gate.limit)},
                     {"measured", number(gate.measured)},
                     {"passed", gate.passed},
                     {"detail", gate.detail}});
  }
  Json task = nullptr;
  if (comparison.task) {
    task = {{"kind", comparison.task->kind},
            {"before", number(comparison.task->before)},
            {"after", number(comparison.task->after)},
            {"samples", comparison.task->samples}};
  }
  return {{"done", true},
          {"data", comparison.data_origin},
          {"samples", comparison.samples},
          {"outputs", outputs(comparison)},
          {"task", std::move(task)},
          {"gates", std::move(gates)},
          {"why", report.proof->why},
          {"first_divergence", comparison.first_divergence}};
}

Json passes(const Report& report) {
  Json list = Json::array();
  for (const PassRun& run : report.pipeline.runs) {
    list.push_back({{"pass", run.pass},
                    {"changed", run.changed},
                    {"seconds", run.seconds},
                    {"nodes_before", run.nodes_before},
                    {"nodes_after", run.nodes_after}});
  }
  return list;
}

Json remarks(const Report& report) {
  Json list = Json::array();
  for (const Remark& remark : report.pipeline.remarks) {
    const char* kind = remark.kind == Remark::Kind::kApplied   ? "applied"
                       : remark.kind == Remark::Kind::kSkipped ? "skipped"
                                                               : "note";
    list.push_back({{"kind", kind},
                    {"pass", remark.pass},
                    {"node", remark.node},
                    {"operator", remark.op_type},
                    {"reason", remark.reason},
                    {"weight_bytes", remark.weight_bytes},
                    {"result_bytes", remark.result_bytes}});
  }
  return list;
}

Json merge(const Report& report) {
  if (!report.merge) return nullptr;
  const MergeFacts& facts_of_merge = *report.merge;
  Json parents = Json::array(), rows = Json::array(), layers = Json::array();
  for (const ModelFacts& parent : facts_of_merge.parents) parents.push_back(facts(parent));
  for (const MergeRow& row : facts_of_merge.rows) {
    Json task = nullptr;
    if (row.task) task = number(*row.task);
    rows.push_back({{"model", row.model},
                    {"kl_to_ensemble", number(row.kl)},
                    {"rel_l2", number(row.rel_l2)},
                    {"task", std::move(task)}});
  }
  for (const MergeLayerRow& layer : facts_of_merge.layers) {
    layers.push_back({{"name", layer.name},
                      {"kind", layer.kind},
                      {"similarity_before", number(layer.before)},
                      {"similarity_after", number(layer.after)},
                      {"transport_cost", number(layer.cost)},
                      {"sharpness", number(layer.sharpness)}});
  }
  return {{"parents", std::move(parents)},    {"method", facts_of_merge.method},   {"task", facts_of_merge.task},
          {"data", facts_of_merge.scored_on}, {"models", std::move(rows)},         {"layers", std::move(layers)},
          {"notes", facts_of_merge.notes},    {"verdict", facts_of_merge.verdict}, {"worse", facts_of_merge.worse}};
}

Json equal_bytes(const Report& report) {
  if (!report.equal_bytes) return nullptr;
  Json rows = Json::array();
  for (const EqualBytesRow& row : report.equal_bytes->rows) {
    const bool done = row.not_done.empty();
    rows.push_back({{"method", row.method},
                    {"weight_bytes", row.weight_bytes},
                    {"task", number(row.task)},
                    {"kl", number(row.kl)},
                    {"rel_l2", done ? number(row.rel_l2) : Json(nullptr)},
                    {"not_done", row.not_done}});
  }
  return {{"task", report.equal_bytes->task},
          {"data", report.equal_bytes->data},
          {"left_out", report.equal_bytes->left_out},
          {"seconds", report.equal_bytes->seconds},
          {"rows", std::move(rows)}};
}

Json budget(const Report& report) {
  if (!report.budget) return nullptr;
  Json attempts = Json::array();
  for (const BudgetAttempt& each : report.budget->attempts) {
    attempts.push_back({{"candidate", each.candidate},
                        {"bytes", each.bytes},
                        {"bits", number(each.bits)},
                        {"metric", each.metric},
                        {"value", number(each.value)},
                        {"verdict", each.verdict}});
  }
  return {{"goal", report.budget->goal},
          {"judged_on", report.budget->judged_on},
          {"attempts", std::move(attempts)},
          {"notes", report.budget->notes}};
}

}  // namespace

std::string report_json(const Report& report) {
  const Json json = {{"version", 1},
                     {"onnxfold", version()},
                     {"verb", report.verb},
                     {"passed", report.passed()},
                     {"written", report.written},
                     {"predicted", report.predicted},
                     {"source", facts(report.source)},
                     {"target", facts(report.target)},
                     {"recipe", {{"name", report.recipe_name}, {"yaml", report.recipe}}},
                     {"seed", report.seed},
                     {"passes", passes(report)},
                     {"coverage", coverage(report.coverage)},
                     {"remarks", remarks(report)},
                     {"check", check(report)},
                     {"culprit", report.culprit},
                     {"equal_bytes", equal_bytes(report)},
                     {"merge", merge(report)},
                     {"budget", budget(report)},
                     {"seconds", report.seconds},
                     {"peak_memory_bytes", report.peak_memory_bytes}};
  // Names inside models need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace onnxfold
