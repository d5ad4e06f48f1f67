#include "converter/report.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

namespace onnxfold::report_test {
namespace {

using testing::HasSubstr;

Report failed_report() {
  Report report;
  report.verb = "compress";
  report.source.path = "a<b>.onnx";
  report.source.bytes = 4000000;
  report.source.weight_bytes = 3900000;
  report.target.path = "out.onnx";
  report.target.bytes = 1000000;
  Proof proof;
  proof.passed = false;
  proof.why = "max-abs";
  OutputMetrics metrics;
  metrics.output = "y";
  metrics.exact = false;
  metrics.max_abs = 0.5;
  proof.comparison.outputs.push_back(metrics);
  proof.gates.push_back({"max-abs", "y", 0.1, 0.5, false, "worst at [3]"});
  report.proof = proof;
  report.coverage.push_back({"some-pass", "MatMul", 36, 38, 3800000, 3900000, {{"weight is not constant", 2, 100000}}});
  return report;
}

TEST(Report, TextShowsSizeCoverageAndFailedGate) {
  const std::string text = report_text(failed_report());
  EXPECT_THAT(text, HasSubstr("4.0 MB -> 1.0 MB (4.0x smaller)"));
  EXPECT_THAT(text, HasSubstr("36 of 38 MatMul (97.4 % of weight bytes)"));
  EXPECT_THAT(text, HasSubstr("weight is not constant (2)"));
  EXPECT_THAT(text, HasSubstr("max-abs 0.1 on y: FAILED (measured 0.5; worst at [3])"));
  EXPECT_THAT(text, HasSubstr("nothing written"));
}

TEST(Report, SaysLoudlyWhatWasNotChecked) {
  Report report = failed_report();
  report.proof.reset();
  report.not_checked = "--no-check was given";
  EXPECT_THAT(report_text(report), HasSubstr("NOT CHECKED: --no-check was given"));
  EXPECT_THAT(report_markdown(report), HasSubstr("**Not checked**"));
  EXPECT_THAT(report_html(report), HasSubstr("Not checked"));
  EXPECT_THAT(report_junit(report), HasSubstr("skipped=\"1\""));
  EXPECT_FALSE(nlohmann::json::parse(report_json(report))["check"]["done"].get<bool>());
}

TEST(Report, JsonKeysAreStable) {
  const auto json = nlohmann::json::parse(report_json(failed_report()));
  EXPECT_EQ(json["version"], 1);
  for (const char* key : {"onnxfold", "verb", "passed", "written", "source", "target", "recipe", "passes", "coverage",
                          "remarks", "check", "seconds", "peak_memory_bytes"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["check"]["gates"][0]["gate"], "max-abs");
  EXPECT_TRUE(json["check"]["outputs"][0]["sqnr_db"].is_null()) << "infinity has no JSON form";
  EXPECT_EQ(json["coverage"][0]["skipped"][0]["count"], 2);
}

TEST(Report, JunitHasOneCasePerGateAndEscapes) {
  Report report = failed_report();
  report.proof->gates[0].output = "a<\"b\">&";
  const std::string xml = report_junit(report);
  EXPECT_THAT(xml, HasSubstr("tests=\"1\" failures=\"1\""));
  EXPECT_THAT(xml, HasSubstr("max-abs a&lt;&quot;b&quot;&gt;&amp;"));
}

TEST(Report, HtmlNeedsNothingFromOutside) {
  const std::string html = report_html(failed_report());
  EXPECT_EQ(html.find("http"), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_THAT(html, HasSubstr("a&lt;b&gt;.onnx"));
}

TEST(Report, LayersOfAMergeAndAResultThatIsWorseAreInEveryForm) {
  Report report = failed_report();
  report.verb = "merge";
  report.merge.emplace();
  report.merge->method = "ot";
  report.merge->layers = {{"fc1", "hidden units", 0.1, 0.5, 0.75, 0.25}, {"q", "queries", 0.3, 0.7, 0.25, 0.75}};
  report.merge->rows = {{"merged", 0.5, 0.25, 0.5}};
  report.merge->worse = true;
  report.merge->verdict = "the merged model is WORSE than the better parent (model 1)";
  EXPECT_THAT(report_text(report),
              HasSubstr("2 in the mean: similarity 0.200 -> 0.600, transport cost 0.5, sharpness 0.500"));
  EXPECT_THAT(report_text(report), HasSubstr("WARNING"));
  for (const std::string& text : {report_markdown(report), report_html(report), report_json(report)}) {
    for (const char* part : {"fc1", "hidden units", "0.75", "0.25", "WORSE than the better parent"}) {
      EXPECT_THAT(text, HasSubstr(part));
    }
  }
}

TEST(Report, AnUnknownExtensionIsRefused) {
  EXPECT_FALSE(render_report(failed_report(), "r.pdf"));
  EXPECT_FALSE(render_report(failed_report(), "json"));
  EXPECT_TRUE(render_report(failed_report(), "r.json"));
}

TEST(BytesText, UsesPowersOfAThousand) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1000), "1.0 kB");
  EXPECT_EQ(bytes_text(999999), "1.0 MB");
  EXPECT_EQ(bytes_text(68900000), "68.9 MB");
}

}  // namespace
}  // namespace onnxfold::report_test
