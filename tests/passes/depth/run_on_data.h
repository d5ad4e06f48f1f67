// Runs a pass that learns from data, and makes such data.
#pragma once

#include <gtest/gtest.h>

#include <random>

#include "analysis/calibrate/dataset.h"
#include "formats/onnx/schema.h"
#include "ir/verify.h"
#include "passes/registry.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {

// Batches of seeded normal numbers for the input "x", [samples, length, width] each.
inline Dataset normal_data(std::int64_t samples, std::int64_t length, std::int64_t width, int batches = 2) {
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal;
  Dataset data;
  for (int batch = 0; batch < batches; ++batch) {
    std::vector<double> numbers(static_cast<std::size_t>(samples * length * width));
    for (double& number : numbers) number = normal(random);
    Feeds feeds;
    feeds["x"] =
        Datum(*to_array(*from_doubles(DType::kFloat32, {samples, length, width}, numbers), Precision::kFloat32));
    data.batches.push_back(feeds);
    data.batch_sizes.push_back(samples);
  }
  return data;
}

inline Result<bool> run_on_data(const std::string& pass, Model& model, const Dataset& data, const OptionMap& options,
                                std::vector<Remark>* remarks = nullptr) {
  const PassInfo* info = find_pass(pass);
  OF_ASSIGN(const PassOptions parsed, PassOptions::parse(info->name, info->options, options));
  PassContext context(model, pass);
  context.calibration = &data;
  auto changed = info->make(parsed)->run(model.graph(), context);
  if (remarks != nullptr) *remarks = context.take_remarks();
  model.graph().purge();
  const Status verified = verify(model);
  EXPECT_TRUE(verified) << verified.error().message;
  EXPECT_TRUE(infer_shapes(model));
  return changed;
}

}  // namespace onnxfold::test
