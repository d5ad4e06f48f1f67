// What a model's inside looks like on data, as text and JSON; each table says what one can do with it.
#pragma once

#include <string>

#include "analysis/depth/depth_report.h"

namespace onnxfold {

struct AnalyzeOptions {
  std::string path;
  std::string data;  // .npz or folder of .pb; empty: generated inputs
  std::int64_t max_samples = 0;
  std::uint64_t seed = 0;
};

struct Analysis {
  std::string path, data_origin;
  std::int64_t samples = 0;
  bool generated = false;  // the inputs are random: damage says little
  DepthReport depth;
  double seconds = 0;
};

// Errors: those of loading, of the executor, unsupported when there is no residual stream.
Result<Analysis> analyze_depth(const AnalyzeOptions& options);
std::string analysis_text(const Analysis& analysis);
std::string analysis_json(const Analysis& analysis);

}  // namespace onnxfold
