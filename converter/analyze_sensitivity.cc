#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "converter/analyze.h"
#include "converter/model_files.h"
#include "formats/onnx/schema.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kBatch = 8, kSamples = 16;  // every weight runs them twice

std::vector<BlockFormat> shown_formats() {
  std::vector<BlockFormat> formats;
  for (const int bits : {2, 4, 8}) {
    BlockFormat format;
    format.bits = bits;
    format.scales = ScaleForm::kFloat16;
    formats.push_back(format);
  }
  return formats;
}

const FormatDamage* at_bits(const WeightSensitivity& row, int bits) {
  for (const FormatDamage& format : row.formats) {
    if (format.format.bits == bits) return &format;
  }
  return nullptr;
}

// Six digits behind the point, so that numbers can be compared by eye.
std::string damage_text(const WeightSensitivity& row, int bits) {
  const FormatDamage* format = at_bits(row, bits);
  if (format == nullptr) return "-";
  const double damage = format->damage;
  std::string number = fmt::format("{:.3g}", damage);
  if (damage < 1000) number = damage > 0 && damage < 5e-7 ? "<0.000001" : fmt::format("{:.6f}", damage);
  return number + (format->measured ? "" : " *");
}

// The weight that costs most at the fewest bits first.
std::vector<const WeightSensitivity*> by_damage(const Sensitivity& sensitivity) {
  std::vector<const WeightSensitivity*> rows;
  for (const WeightSensitivity& row : sensitivity.weights) rows.push_back(&row);
  const auto damage = [](const WeightSensitivity* row) {
    const FormatDamage* format = at_bits(*row, 2);
    if (format == nullptr) return 0.0;
    return std::isnan(format->damage) ? std::numeric_limits<double>::infinity() : format->damage;
  };
  std::stable_sort(rows.begin(), rows.end(), [&](const auto* a, const auto* b) { return damage(a) > damage(b); });
  return rows;
}

}  // namespace

Result<SensitivityAnalysis> analyze_sensitivity(const AnalyzeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  OF_ASSIGN(const auto model, load_model(options.path));
  OF_TRY(infer_shapes(*model));
  SensitivityAnalysis analysis;
  analysis.path = options.path;
  analysis.generated = options.data.empty();
  DatasetOptions loading;
  loading.batch_size = kBatch;
  loading.max_samples = options.max_samples > 0 ? options.max_samples : kSamples;
  OF_ASSIGN(Dataset data, make_dataset(*model, options.data, options.seed, loading));
  data.targets.clear();
  analysis.data_origin = data.origin;
  for (const std::int64_t size : data.batch_sizes) analysis.samples += size;
  SensitivityOptions measuring;
  measuring.formats = shown_formats();
  measuring.weights.format = measuring.formats.front();
  if (options.progress) {
    measuring.progress = [&](double done) { options.progress("measuring sensitivities", done); };
  }
  OF_ASSIGN(analysis.sensitivity, measure_sensitivity(*model, &data, measuring));
  analysis.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return analysis;
}

std::string sensitivity_text(const SensitivityAnalysis& analysis) {
  const Sensitivity& sensitivity = analysis.sensitivity;
  std::string text = fmt::format(
      "{}, {}\n{} of the outputs to the original's when one weight alone is rounded, in blocks of 32\n"
      "(0: nothing changes; the most sensitive weight first)\n",
      analysis.path, analysis.data_origin, sensitivity.kind);
  std::size_t width = 6;
  for (const WeightSensitivity& row : sensitivity.weights) width = std::max(width, row.weight.size());
  text += fmt::format("{:<{}}  {:>11}  {:>10}  {:>10}  {:>11}  {}\n", "weight", width, "elements", "2 bits", "4 bits",
                      "8 bits", "read by");
  for (const WeightSensitivity* row : by_damage(sensitivity)) {
    text += fmt::format("{:<{}}  {:>11}  {:>10}  {:>10}  {:>11}  {}\n", row->weight, width, row->elements,
                        damage_text(*row, 2), damage_text(*row, 4), damage_text(*row, 8), row->node);
  }
  text += "  *          not measured: follows from the others by the squared error of the rounded weight\n";
  if (analysis.generated) text += "note        the inputs are random (--data F.npz gives real ones): they say little\n";
  text += "use         compress --target-bits B or --target-size SIZE chooses formats by such numbers\n";
  return text + fmt::format("time        {:.1f} s, {:.1f} forward passes for {} weights\n", analysis.seconds,
                            sensitivity.forward_passes, sensitivity.weights.size());
}

std::string sensitivity_json(const SensitivityAnalysis& analysis) {
  using Json = nlohmann::ordered_json;
  Json json = {{"version", 1},
               {"verb", "analyze"},
               {"model", analysis.path},
               {"data", analysis.data_origin},
               {"samples", analysis.samples},
               {"seconds", analysis.seconds},
               {"forward_passes", analysis.sensitivity.forward_passes},
               {"damage", analysis.sensitivity.kind}};
  json["weights"] = Json::array();
  for (const WeightSensitivity& row : analysis.sensitivity.weights) {
    Json formats = Json::array();
    for (const FormatDamage& each : row.formats) {
      formats.push_back({{"bits", each.format.bits},
                         {"block", each.format.block},
                         {"symmetric", each.format.symmetric},
                         {"bytes", each.bytes},
                         {"weight_error", each.weight_error},
                         {"damage", std::isfinite(each.damage) ? Json(each.damage) : Json(nullptr)},
                         {"measured", each.measured}});
    }
    json["weights"].push_back({{"weight", row.weight},
                               {"node", row.node},
                               {"elements", row.elements},
                               {"bytes", row.bytes},
                               {"formats", std::move(formats)}});
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace onnxfold
