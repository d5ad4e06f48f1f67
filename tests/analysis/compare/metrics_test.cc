#include "analysis/compare/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/compare/task.h"
#include "converter/gates.h"
#include "converter/proof.h"
#include "formats/onnx/onnx_file.h"
#include "tests/support/paths.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::metrics_test {
namespace {

using test::model_from_text;

std::unique_ptr<Model> scaled(const std::string& factor) {
  return model_from_text(R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y)
    <float f = {)" + factor +
                         "}> { h = Mul(x, f) y = Neg(h) }");
}

Dataset two_rows() {
  Dataset data;
  Feeds feeds;
  feeds["x"] = *to_array(Tensor::of<float>({2, 2}, {3, 4, 0, 2}), Precision::kFloat32);
  data.batches.push_back(std::move(feeds));
  data.batch_sizes = {2};
  data.origin = "two rows";
  return data;
}

TEST(Metrics, HandComputed) {
  const auto comparison = compare_models(*scaled("1"), *scaled("1.5"), two_rows());
  ASSERT_TRUE(comparison) << comparison.error().message;
  const OutputMetrics& y = comparison->outputs.at(0);
  EXPECT_DOUBLE_EQ(y.max_abs, 2.0);
  EXPECT_DOUBLE_EQ(y.max_rel_l2, 0.5);
  EXPECT_NEAR(y.cosine, 1, 1e-12);
  EXPECT_NEAR(y.sqnr_db, 10 * std::log10(4.0), 1e-12);
  EXPECT_DOUBLE_EQ(*y.top1, 1.0);
  EXPECT_FALSE(y.exact);
  EXPECT_NE(y.worst_element.find("[0,1]"), std::string::npos) << y.worst_element;
}

// A score near 0 may change its sign: that says nothing of the others.
TEST(Metrics, OneNumberASampleIsComparedByBatch) {
  const auto score = [](const std::string& shift, const char* dims) {
    return model_from_text(R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 1] x) => (float[)" +
                           std::string(dims) + R"(] y) <float b = {)" + shift +
                           R"(}, int64[1] s = {-1}, int64[2] t = {-1, 1}> { h = Add(x, b) y = Reshape(h, )" +
                           (std::string(dims) == "N" ? "s" : "t") + ") }");
  };
  Dataset data;
  Feeds feeds;
  feeds["x"] = *to_array(Tensor::of<float>({4, 1}, {3, 0.01F, -2, 1}), Precision::kFloat32);
  data.batches.push_back(std::move(feeds));
  data.batch_sizes = {4};
  for (const char* dims : {"N", "N, 1"}) {
    const auto comparison = compare_models(*score("0", dims), *score("-0.02", dims), data);
    ASSERT_TRUE(comparison) << comparison.error().message;
    EXPECT_GT(comparison->outputs.at(0).cosine, 0.999) << dims;
    EXPECT_LT(comparison->outputs.at(0).cosine, 1) << dims;
  }
}

TEST(Metrics, EqualModelsAreExact) {
  const auto comparison = compare_models(*scaled("1"), *scaled("1"), two_rows());
  EXPECT_TRUE(comparison->outputs.at(0).exact);
  EXPECT_EQ(comparison->outputs.at(0).max_abs, 0);
}

TEST(Metrics, InterfacesMustCorrespond) {
  const auto other = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] z) => (float[N, 2] y)
    { y = Neg(z) })");
  EXPECT_EQ(compare_models(*scaled("1"), *other, two_rows()).error().code, Code::kInvalidArgument);
}

std::vector<std::string> failed(const Gates& gates, const Comparison& comparison) {
  std::vector<std::string> names;
  for (const GateResult& gate : check_gates(gates, comparison)) {
    if (!gate.passed) names.push_back(gate.gate);
  }
  return names;
}

TEST(Gates, EachHoldsAndBreaks) {
  const Comparison comparison = *compare_models(*scaled("1"), *scaled("1.5"), two_rows());
  using Limit = std::optional<double> Gates::*;
  struct Row {
    Limit limit;
    double holds, breaks;
    const char* name;
  };
  for (const Row& row : {Row{&Gates::max_abs, 2.1, 1.9, "max-abs"}, Row{&Gates::max_rel_l2, 0.51, 0.49, "max-rel-l2"},
                         Row{&Gates::min_sqnr, 6, 7, "min-sqnr"}, Row{&Gates::min_cosine, 0.9, 1.1, "min-cosine"},
                         Row{&Gates::min_top1, 0.9, 1.1, "min-top1"}, Row{&Gates::max_kl, 10, 1e-9, "max-kl"}}) {
    Gates gates;
    gates.*row.limit = row.holds;
    EXPECT_TRUE(failed(gates, comparison).empty()) << row.name;
    gates.*row.limit = row.breaks;
    EXPECT_EQ(failed(gates, comparison), std::vector<std::string>{row.name});
  }
}

TEST(Gates, TaskGatesFailWithoutATask) {
  const Comparison comparison = *compare_models(*scaled("1"), *scaled("1"), two_rows());
  Gates accuracy;
  accuracy.max_accuracy_drop = 0.5;
  Gates perplexity;
  perplexity.max_perplexity_increase = 5;
  EXPECT_EQ(failed(accuracy, comparison), std::vector<std::string>{"max-accuracy-drop"});
  EXPECT_EQ(failed(perplexity, comparison), std::vector<std::string>{"max-perplexity-increase"});
}

TEST(Gates, NewNanAlwaysFails) {
  const auto broken = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y)
    { h = Neg(x) y = Sqrt(h) })");
  const Comparison comparison = *compare_models(*scaled("1"), *broken, two_rows());
  EXPECT_TRUE(comparison.outputs.at(0).new_nan_or_inf);
  EXPECT_EQ(failed({}, comparison), std::vector<std::string>{"no-new-nan"});
}

TEST(Proof, AFailureNamesWhereTheModelsPart) {
  const auto proof = prove(*scaled("1"), *scaled("1.5"), two_rows(), {{}, Exactness::kRounding, {}});
  ASSERT_TRUE(proof) << proof.error().message;
  EXPECT_FALSE(proof->passed);
  EXPECT_NE(proof->why.find("max-rel-l2"), std::string::npos) << proof->why;
  EXPECT_NE(proof->why.find("'h'"), std::string::npos) << proof->why;
}

TEST(Task, WhatIsNamedLabelsComesFirstAndMustBeClasses) {
  const auto model =
      model_from_text(R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) })");
  Dataset data;
  Array rows(DType::kFloat32, {2, 2}, Precision::kFloat32);
  const float values[] = {1, 2, 3, 1};
  std::copy_n(values, 4, rows.mutable_data<float>());
  data.batches.push_back({{"x", Datum(rows)}});
  data.batch_sizes = {2};
  data.targets["id"] = Tensor::of<std::int64_t>({2}, {900, 901});
  data.targets["labels"] = Tensor::of<std::int64_t>({2}, {1, 0});
  TaskMeter meter(*model, data);
  ASSERT_TRUE(meter.add(data.batches[0], {Datum(rows)}, {Datum(rows)}));
  EXPECT_EQ(meter.result()->before, 1);
  data.targets["labels"] = Tensor::of<std::int64_t>({2}, {1, 2});
  const Status wrong = TaskMeter(*model, data).add(data.batches[0], {Datum(rows)}, {Datum(rows)});
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("'labels' is 2 for sample 1"), std::string::npos);
}

TEST(Task, AccuracyOfTheSample) {
  const auto model = *load_model(test::source_path("samples/vit_a.onnx"));
  const auto data = *load_dataset(*model, test::source_path("samples/digits_test.npz"));
  const auto comparison = *compare_models(*model, *model, data);
  ASSERT_TRUE(comparison.task);
  EXPECT_EQ(comparison.task->kind, "accuracy");
  EXPECT_DOUBLE_EQ(comparison.task->before, 0.955);
}

TEST(Task, BitsPerByteOfTheSample) {
  const auto model = *load_model(test::source_path("samples/bytelm.onnx"));
  const auto data = *load_dataset(*model, test::source_path("samples/kjv_valid.npz"));
  const auto comparison = *compare_models(*model, *model, data);
  ASSERT_TRUE(comparison.task);
  EXPECT_EQ(comparison.task->kind, "bits per byte");
  EXPECT_NEAR(comparison.task->before, 1.9736, 5e-5);
}

// Caches of removed blocks: the second model lacks an input and an output; what is left is compared by name.
TEST(Compare, FewerInputsAndOutputsOnlyWhenSaid) {
  const auto before = test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[2, 3] x, float[2, 3] past) => (float[2, 3] present, float[2, 3] y) { present = Add(x, past) y = Relu(x) })");
  const auto after = test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) })");
  const Dataset data = *generate_dataset(*before, 0);
  EXPECT_FALSE(compare_models(*before, *after, data));
  CompareOptions options;
  options.fewer = true;
  const auto comparison = compare_models(*before, *after, data, options);
  ASSERT_TRUE(comparison) << comparison.error().message;
  ASSERT_EQ(comparison->outputs.size(), 1U);
  EXPECT_EQ(comparison->outputs[0].output, "y");
  EXPECT_TRUE(comparison->outputs[0].exact);
}

}  // namespace
}  // namespace onnxfold::metrics_test
