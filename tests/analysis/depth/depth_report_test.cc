#include "analysis/depth/depth_report.h"

#include <gtest/gtest.h>

#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::depth_report_test {
namespace {

// Blocks of x + relu(x u) d.
std::unique_ptr<Model> stack(int blocks) {
  std::string constants, nodes, x = "x";
  for (int i = 0; i < blocks; ++i) {
    const std::string n = std::to_string(i), y = i + 1 == blocks ? "y" : "x" + n;
    constants += (i == 0 ? "" : ", ") + std::string("float[8, 16] u") + n + " = {}, float[16, 8] d" + n + " = {}";
    nodes += "p" + n + " = MatMul(" + x + ", u" + n + ") h" + n + " = Relu(p" + n + ") o" + n + " = MatMul(h" + n +
             ", d" + n + ") " + y + " = Add(" + x + ", o" + n + ") ";
    x = y;
  }
  return test::model_from_text(
      "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, T, 8] x) => (float[N, T, 8] y) <" + constants + "> { " +
      nodes + " }");
}

TEST(DepthReport, TakesAtMostTwoPassesMoreThanBlocks) {
  for (const int blocks : {4, 12}) {
    const auto model = stack(blocks);
    const Dataset data = test::normal_data(4, 8, 8);
    const auto report = measure_depth(*model, data);
    ASSERT_TRUE(report) << report.error().message;
    ASSERT_EQ(report->blocks.size(), static_cast<std::size_t>(blocks));
    EXPECT_LE(report->forward_passes, blocks + 2);
  }
}

TEST(DepthReport, SkipEffectsStandBehindTheSkippedBlock) {
  const auto model = stack(4);
  const Dataset data = test::normal_data(4, 8, 8);
  const auto report = measure_depth(*model, data);
  ASSERT_TRUE(report) << report.error().message;
  for (std::size_t s = 0; s < 4; ++s) {
    EXPECT_EQ(report->blocks[s].skip_effect[s], 1);
    for (std::size_t l = 0; l < s; ++l) EXPECT_EQ(report->blocks[s].skip_effect[l], 0);
  }
}

}  // namespace
}  // namespace onnxfold::depth_report_test
