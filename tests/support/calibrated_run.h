// Runs a pass that learns from data, outside of a pipeline.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "converter/pipeline.h"
#include "passes/registry.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {

struct CalibratedRun {
  std::unique_ptr<Model> model;
  Result<bool> changed = false;
  std::vector<Remark> remarks;

  bool did() const { return changed && *changed; }
  bool says(const std::string& part) const {
    for (const Remark& remark : remarks) {
      if (remark.reason.find(part) != std::string::npos) return true;
    }
    return false;
  }
};

inline CalibratedRun run_calibrated(const std::string& pass, const std::string& text, const Dataset* data,
                                    const OptionMap& options = {}) {
  CalibratedRun out;
  out.model = model_from_text(text);
  const PassInfo& info = *find_pass(pass);
  const PassOptions parsed = *PassOptions::parse(info.name, info.options, options);
  PassContext context(*out.model, pass);
  context.calibration = data;
  out.changed = info.make(parsed)->run(out.model->graph(), context);
  out.remarks = context.take_remarks();
  return out;
}

// One batch of one input, its samples along the first axis.
inline Dataset dataset_of(const std::string& input, const Dims& dims, const std::vector<double>& numbers) {
  Dataset data;
  Feeds feeds;
  feeds[input] = Datum(*to_array(*from_doubles(DType::kFloat32, dims, numbers), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(dims[0]);
  return data;
}

// A whole recipe, so that passes know the model before the first lossy one.
inline CalibratedRun run_passes(const std::vector<RecipeStep>& steps, const std::string& text, const Dataset* data) {
  CalibratedRun out;
  out.model = model_from_text(text);
  PipelineOptions options;
  options.calibration = data;
  auto result = run_pipeline(*out.model, {"test", "", steps}, options);
  if (result) {
    out.changed = result->runs.back().changed;
    out.remarks = std::move(result->remarks);
  } else {
    out.changed = fail(result.error());
  }
  return out;
}

inline std::vector<double> first_output(const Model& model, const Dataset& data) {
  const auto executor = Executor::create(model);
  if (!executor) return {};
  const auto result = (*executor)->run(data.batches[0]);
  return result ? *to_doubles(result->outputs[0].array) : std::vector<double>{};
}

// ||a - b|| / ||b||; 1 when they have different lengths.
inline double relative_distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return 1;
  double error = 0, total = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    total += b[i] * b[i];
  }
  return total > 0 ? std::sqrt(error / total) : 0;
}

}  // namespace onnxfold::test
