#include "analysis/compare/padding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "analysis/compare/ensemble.h"
#include "analysis/compare/metrics.h"
#include "converter/proof.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::padding_test {
namespace {

using Numbers = std::vector<std::int64_t>;
constexpr std::int64_t kSamples = 2, kLength = 3;

// Scores of three words by position: a table, times `factor`, row by token. Token 2 is what padding holds.
std::unique_ptr<Model> scores(const std::string& last_row, const std::string& mask = "int64[N, L] attention_mask") {
  return test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (int64[N, L] input_ids, )" +
                               mask + R"() => (float[N, L, 3] logits)
    <float[3, 3] table = {1, 2, 0, 0, 1, 3, )" +
                               last_row + R"(}> { logits = Gather(table, input_ids) })");
}
std::unique_ptr<Model> original() { return scores("1, 1, 1"); }
std::unique_ptr<Model> changed() { return scores("5, 0, 9"); }  // where token 2 is read

Datum array(const Dims& dims, const Numbers& numbers) {
  return Datum(*to_array(Tensor::of<std::int64_t>(dims, numbers), Precision::kFloat32));
}

// [0 1 2], [1 2 2] with what the mask says.
Dataset data(const Numbers& mask, Dims mask_dims = {kSamples, kLength}, const std::string& name = "attention_mask") {
  Dataset made;
  Feeds feeds;
  feeds["input_ids"] = array({kSamples, kLength}, {0, 1, 2, 1, 2, 2});
  feeds[name] = array(mask_dims, mask);
  made.batches.push_back(std::move(feeds));
  made.batch_sizes = {kSamples};
  made.origin = "two samples";
  return made;
}
const Numbers kReal = {1, 1, 0, 1, 0, 0}, kOnes(6, 1);

Comparison compare(const Model& before, const Model& after, const Dataset& data, bool padding = false) {
  CompareOptions options;
  options.padding = padding;
  const auto comparison = compare_models(before, after, data, options);
  EXPECT_TRUE(comparison) << comparison.error().message;
  return *comparison;
}

double loss(const std::vector<double>& row, std::size_t target) {
  double sum = 0;
  for (const double x : row) sum += std::exp(x);
  return std::log(sum) - row[target];
}

TEST(Padding, OutputsAreComparedWithoutIt) {
  const Comparison without = compare(*original(), *changed(), data(kReal));
  EXPECT_EQ(without.outputs[0].max_rel_l2, 0);
  EXPECT_EQ(without.outputs[0].max_abs, 0);
  EXPECT_EQ(without.outputs[0].top1, 1);
  EXPECT_EQ(without.outputs[0].kl, 0);
  EXPECT_NEAR(without.outputs[0].cosine, 1, 1e-12);
  EXPECT_EQ(without.outputs[0].padding, 9);
  EXPECT_EQ(without.outputs[0].compared, 9);
  EXPECT_FALSE(without.outputs[0].exact);  // says whether bits differ anywhere
  EXPECT_GT(compare(*original(), *changed(), data(kReal), true).outputs[0].max_rel_l2, 1);
}

TEST(Padding, AMaskOfOnesChangesNothing) {
  const Comparison ones = compare(*original(), *changed(), data(kOnes));
  const Comparison all = compare(*original(), *changed(), data(kOnes), true);
  EXPECT_EQ(ones.outputs[0].max_rel_l2, all.outputs[0].max_rel_l2);
  EXPECT_EQ(ones.outputs[0].kl, all.outputs[0].kl);
  EXPECT_EQ(ones.outputs[0].cosine, all.outputs[0].cosine);
  EXPECT_EQ(ones.outputs[0].padding, 0);
  EXPECT_EQ(ones.task->samples, 4);
}

TEST(Padding, NanThereStillFails) {
  const auto broken = test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (int64[N, L] input_ids, int64[N, L] attention_mask) => (float[N, L, 3] logits)
    <float[3, 3] table = {1, 2, 0, 0, 1, 3, 1, 1, -1}> { rows = Gather(table, input_ids) logits = Sqrt(rows) })");
  const auto sane = test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (int64[N, L] input_ids, int64[N, L] attention_mask) => (float[N, L, 3] logits)
    <float[3, 3] table = {1, 2, 0, 0, 1, 3, 1, 1, 1}> { rows = Gather(table, input_ids) logits = Sqrt(rows) })");
  EXPECT_TRUE(compare(*sane, *broken, data(kReal)).outputs[0].new_nan_or_inf);
}

TEST(Padding, MasksOfOtherShapesSayNothing) {
  const Comparison all = compare(*original(), *changed(), data(kOnes), true);
  for (const auto& [declared, dims, mask] :
       {std::tuple<std::string, Dims, Numbers>{"int64[N, M] attention_mask", {2, 4}, {1, 1, 0, 1, 0, 0, 0, 0}},
        {"int64[N, 1, 1, L] attention_mask", {2, 1, 1, 3}, kReal},
        {"int64[M, L] attention_mask", {1, 3}, {1, 1, 0}}}) {
    const Comparison other = compare(*scores("1, 1, 1", declared), *scores("5, 0, 9", declared), data(mask, dims));
    EXPECT_EQ(other.outputs[0].max_rel_l2, all.outputs[0].max_rel_l2) << declared;
    EXPECT_EQ(other.outputs[0].padding, 0) << declared;
    EXPECT_EQ(other.task->samples, 4) << declared;
    EXPECT_EQ(other.task->after, all.task->after) << declared;
  }
}

// Scores by class and caches by head may be as large as the mask.
TEST(Padding, OnlyRowsByPositionAreCovered) {
  const RowMask mask{{2, 3}, {1, 1, 0, 1, 0, 0}};
  const auto output = [](const Dims& dims) { return Array(DType::kFloat32, dims, Precision::kFloat32); };
  EXPECT_TRUE(covers(mask, output({2, 3, 5})));
  for (const Dims& dims : {Dims{2, 3}, Dims{2, 3, 3, 4}, Dims{3, 2, 5}, Dims{2, 4, 5}, Dims{6, 5}}) {
    EXPECT_FALSE(covers(mask, output(dims)));
  }
  EXPECT_FALSE(covers(RowMask(), output({2, 3, 5})));
}

TEST(Padding, OfADecoderIsItsOwn) {
  const auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (int64[N, L] input_ids, int64[N, L] attention_mask, int64[N, L] decoder_input_ids,
       int64[N, L] decoder_attention_mask) => (float[N, L, 3] logits)
    <float[3, 3] table = {1, 2, 0, 0, 1, 3, 1, 1, 1}> { logits = Gather(table, decoder_input_ids) })");
  Feeds feeds = data(kReal).batches[0];
  EXPECT_TRUE(output_padding(*model, feeds).keep.empty());
  feeds["decoder_attention_mask"] = array({2, 3}, {1, 0, 1, 1, 1, 1});
  EXPECT_EQ(output_padding(*model, feeds).keep, (std::vector<char>{1, 0, 1, 1, 1, 1}));
}

TEST(Padding, TokensToPredictAreReal) {
  const Comparison padded = compare(*original(), *changed(), data(kReal), true);
  ASSERT_TRUE(padded.task);
  EXPECT_EQ(padded.task->kind, "perplexity");
  EXPECT_EQ(padded.task->samples, 1);  // token 1 behind token 0 of the first sample
  EXPECT_NEAR(padded.task->loss_before, loss({1, 2, 0}, 1), 1e-6);
  EXPECT_EQ(padded.task->loss_after, padded.task->loss_before);
  const Comparison left = compare(*original(), *changed(), data({0, 1, 1, 0, 0, 1}), true);
  EXPECT_EQ(left.task->samples, 1);  // token 2 behind token 1: the first real token has nothing real in front
  EXPECT_NEAR(left.task->loss_before, loss({0, 1, 3}, 2), 1e-6);
}

TEST(Padding, GivenTargets) {
  Dataset given = data(kOnes);
  given.targets["next"] = Tensor::of<std::int64_t>({2, 3}, {1, -100, -100, 2, -100, 0});
  const Comparison some = compare(*original(), *changed(), given);
  EXPECT_EQ(some.task->samples, 3);
  const double expected = (loss({1, 2, 0}, 1) + loss({0, 1, 3}, 2) + loss({1, 1, 1}, 0)) / 3;
  EXPECT_NEAR(some.task->loss_before, expected, 1e-6);
  given.batches[0]["attention_mask"] = array({2, 3}, kReal);
  EXPECT_EQ(compare(*original(), *changed(), given).task->samples, 2);  // the 0 stands at a padded position
  given.targets["next"] = Tensor::of<std::int64_t>({2, 2}, {1, 1, 1, 1});
  EXPECT_FALSE(compare(*original(), *changed(), given).task);  // of another length
}

// Labels as Transformers takes them: the input tokens again, -100 where nothing is to be predicted.
TEST(Padding, LabelsThatRepeatTheTokensAreShifted) {
  Dataset repeated = data(kOnes);
  repeated.targets["labels"] = Tensor::of<std::int64_t>({2, 3}, {0, 1, -100, 1, -100, -100});
  const Comparison masked = compare(*original(), *changed(), data(kReal)),
                   given = compare(*original(), *changed(), repeated);
  EXPECT_EQ(given.task->samples, 1);
  EXPECT_EQ(given.task->loss_before, masked.task->loss_before);
  repeated.targets["labels"] = Tensor::of<std::int64_t>({2, 3}, {0, 1, -100, 0, -100, -100});  // not the tokens
  EXPECT_EQ(compare(*original(), *changed(), repeated).task->samples, 3);
}

TEST(Padding, NegativeLabelsOfClassesAreNone) {
  const auto model = test::model_from_text(
      R"(<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) })");
  Dataset labelled;
  labelled.batches.push_back(
      {{"x", Datum(*to_array(Tensor::of<float>({3, 2}, {1, 2, 2, 1, 0, 1}), Precision::kFloat32))}});
  labelled.batch_sizes = {3};
  labelled.targets["labels"] = Tensor::of<std::int64_t>({3}, {0, -100, 1});
  const Comparison comparison = compare(*model, *model, labelled);
  EXPECT_EQ(comparison.task->samples, 2);
  EXPECT_EQ(comparison.task->before, 0.5);
}

TEST(Padding, ChecksOfLossyPassesLeaveItOut) {
  for (const auto exactness : {Exactness::kLossy, Exactness::kExact}) {
    Gates gates;
    gates.max_rel_l2 = 1e-6;
    const auto proof = prove(*original(), *changed(), data(kReal), {gates, exactness, {}});
    ASSERT_TRUE(proof) << proof.error().message;
    EXPECT_EQ(proof->passed, exactness == Exactness::kLossy);
  }
}

TEST(Padding, ScoresOfEnsemblesLeaveItOut) {
  const auto a = original(), b = changed();
  const auto score = [&](const Numbers& mask) {
    const auto report = score_against_ensemble({a.get()}, {b.get()}, data(mask));
    EXPECT_TRUE(report) << report.error().message;
    return report->models[0];
  };
  EXPECT_NEAR(score(kReal).kl, 0, 1e-12);
  EXPECT_EQ(score(kReal).rel_l2, 0);
  EXPECT_GT(score(kOnes).kl, 0.1);
}

}  // namespace
}  // namespace onnxfold::padding_test
