#include "converter/equal_bytes.h"

#include <gmock/gmock.h>

#include "converter/compress.h"
#include "converter/report.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::equal_bytes_test {
namespace {

using test::model_from_text;
using testing::HasSubstr;

std::unique_ptr<Model> two_layers() {
  return model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 64] x) => (float[N, 64] y) <float[64, 128] u = {}, float[128, 64] d = {}> {
      p = MatMul(x, u) h = Relu(p) y = MatMul(h, d) })");
}

TEST(EqualBytes, ControlsAreNoLargerThanAsked) {
  const auto model = two_layers();
  const Dataset data = *generate_dataset(*model, 0);
  EqualBytesOptions options;
  options.bytes = weight_bytes(*model) / 2;
  options.calibration = &data;
  const auto table = equal_bytes_controls(*model, data, options);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->rows.size(), 2U);
  EXPECT_EQ(table->rows[0].method, "low rank, whitened");
  EXPECT_EQ(table->rows[1].method, "8 bits in blocks of 32 (rtn)");
  for (const EqualBytesRow& row : table->rows) {
    EXPECT_EQ(row.not_done, "");
    EXPECT_LE(static_cast<double>(row.weight_bytes), 1.01 * static_cast<double>(options.bytes)) << row.method;
    EXPECT_GT(row.rel_l2, 0) << row.method;
  }
}

TEST(EqualBytes, WhatCannotBeMadeThatSmallSaysSo) {
  const auto model = two_layers();
  const Dataset data = *generate_dataset(*model, 0);
  EqualBytesOptions options;
  options.bytes = 100;
  const auto table = equal_bytes_controls(*model, data, options);
  ASSERT_TRUE(table) << table.error().message;
  ASSERT_EQ(table->rows.size(), 2U);
  for (const EqualBytesRow& row : table->rows) EXPECT_EQ(row.not_done, "cannot be made that small") << row.method;
}

TEST(EqualBytes, EveryFormOfTheReportShowsThem) {
  Report report;
  report.verb = "compress";
  report.equal_bytes = EqualBytes{"accuracy", "d.npz", "", {{"this result", 1000, 0.5, 0.25, 0.125, ""}}, 0};
  for (const auto& text : {report_text(report), report_markdown(report), report_html(report), report_json(report)}) {
    EXPECT_THAT(text, HasSubstr("this result"));
    EXPECT_THAT(text, HasSubstr("0.125"));
  }
  report.equal_bytes->left_out = "no time";
  for (const auto& text : {report_text(report), report_markdown(report), report_html(report), report_json(report)}) {
    EXPECT_THAT(text, HasSubstr("no time"));
  }
}

}  // namespace
}  // namespace onnxfold::equal_bytes_test
