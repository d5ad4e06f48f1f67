// What a model's inside looks like on data, as text and JSON; each table says what one can do with it.
#pragma once

#include <string>

#include "analysis/depth/depth_report.h"
#include "analysis/depth/part_table.h"
#include "passes/quantize/sensitivity.h"

namespace onnxfold {

struct AnalyzeOptions {
  std::string path;
  std::string data;  // .npz or folder of .pb; empty: generated inputs
  std::int64_t max_samples = 0;
  std::uint64_t seed = 0;
  std::function<void(const std::string& phase, double done)> progress;
  bool depth = true;
  std::vector<std::string> tables;  // "paths", "attention", "linearity", "hidden", "lut"
};

struct Analysis {
  std::string path, data_origin;
  std::int64_t samples = 0;
  bool generated = false;  // the inputs are random: damage says little
  std::optional<DepthReport> depth;
  std::vector<PartTable> tables;
  double seconds = 0;
};

// Errors: those of loading, of the executor, unsupported when there is no residual stream.
Result<Analysis> analyze(const AnalyzeOptions& options);
std::string analysis_text(const Analysis& analysis);
std::string analysis_json(const Analysis& analysis);

// What every weight costs at 2, 4 and 8 bits, measured at the outputs.
struct SensitivityAnalysis {
  std::string path, data_origin;
  std::int64_t samples = 0;
  bool generated = false;
  Sensitivity sensitivity;
  double seconds = 0;
};
// Errors: those of loading and of measure_sensitivity.
Result<SensitivityAnalysis> analyze_sensitivity(const AnalyzeOptions& options);
std::string sensitivity_text(const SensitivityAnalysis& analysis);
std::string sensitivity_json(const SensitivityAnalysis& analysis);

}  // namespace onnxfold
