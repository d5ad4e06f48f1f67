#include <gtest/gtest.h>

#include "ir/match.h"
#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::table_int8_test {
namespace {

using test::first_output;
using test::relative_distance;
using test::run_calibrated;

std::string model(const std::string& nodes, const std::string& table = "float[96, 32] t = {}") {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (int64[N, 8] x) => (float[N, 8, 16] y) <" + table +
         ", float[32, 16] w = {}> { " + nodes + " }";
}

Dataset tokens(std::int64_t most) {
  std::vector<std::int64_t> numbers(32);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int64_t>(i * 7) % most;
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(Tensor::of<std::int64_t>({4, 8}, numbers), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(4);
  return data;
}

const std::string kOne = model("e = Gather(t, x) y = MatMul(e, w)");

TEST(TableInt8, RowsAreGatheredAsCodesAndDecodedBehind) {
  const Dataset data = tokens(96);
  for (const char* pass : {"qdq-int8", "dynamic-int8"}) {
    const auto run = run_calibrated(pass, kOne, &data);
    ASSERT_TRUE(run.did()) << run.changed.error().message;
    EXPECT_TRUE(verify(*run.model));
    const auto gathers = run.model->graph().nodes_of("Gather");
    ASSERT_EQ(gathers.size(), 2U);
    EXPECT_EQ(gathers[0]->input(0)->dtype(), DType::kInt8);
    EXPECT_EQ(constant(gathers[1]->input(0))->dims(), (Dims{96, 1}));
    EXPECT_EQ(run.model->graph().find("t"), nullptr);
    const auto wanted = first_output(*test::model_from_text(kOne), data);
    EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.02) << pass;
  }
}

TEST(TableInt8, ReadersShareTheCodes) {
  const Dataset data = tokens(96);
  const auto run = run_calibrated(
      "qdq-int8", model("e = Gather(t, x) f = Gather<axis = -2>(t, x) s = Add(e, f) y = MatMul(s, w)"), &data);
  ASSERT_TRUE(run.did());
  const auto gathers = run.model->graph().nodes_of("Gather");
  ASSERT_EQ(gathers.size(), 4U);
  EXPECT_EQ(gathers[0]->input(0), gathers[2]->input(0));
  EXPECT_EQ(gathers[1]->input(0), gathers[3]->input(0));
}

TEST(TableInt8, ModelsWithoutProductsToo) {
  const Dataset data = tokens(96);
  const std::string text =
      "<ir_version: 8, opset_import: [\"\" : 11]> g (int64[N, 8] x) => (float[N, 8, 32] y) <float[96, 32] t = {}> { y "
      "= Gather(t, x) }";
  const auto run = run_calibrated("qdq-int8", text, &data);
  ASSERT_TRUE(run.did());
  EXPECT_EQ(run.model->graph().outputs()[0]->name(), "y");
  EXPECT_LT(relative_distance(first_output(*run.model, data), first_output(*test::model_from_text(text), data)), 0.01);
}

// float16 tables, and those that are read behind a Cast (convert-float16 stores weights so).
TEST(TableInt8, TablesOfOtherFloatsAndBehindCasts) {
  const Dataset data = tokens(96);
  for (const char* nodes : {
           "c = Cast<to = 10>(t) h = Gather(c, x) e = Cast<to = 1>(h) y = MatMul(e, w)",
           "c = Cast<to = 10>(t) d = Cast<to = 1>(c) e = Gather(d, x) y = MatMul(e, w)",
           "i = Identity(t) e = Gather(i, x) f = Gather(t, x) s = Add(e, f) y = MatMul(s, w)",
           "e = Gather(t, x) c = Cast<to = 10>(t) h = Gather(c, x) g = Cast<to = 1>(h) s = Add(e, g) y = MatMul(s, w)",
       }) {
    const std::string text = model(nodes);
    const auto run = run_calibrated("qdq-int8", text, &data);
    ASSERT_TRUE(run.did()) << nodes;
    EXPECT_TRUE(verify(*run.model)) << nodes;
    const auto gathers = run.model->graph().nodes_of("Gather");
    ASSERT_GE(gathers.size(), 2U);
    EXPECT_EQ(gathers[0]->input(0)->dtype(), DType::kInt8) << nodes;
    EXPECT_EQ(run.model->graph().find("t"), nullptr) << nodes;
    const auto wanted = first_output(*test::model_from_text(text), data);
    EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.02) << nodes;
  }
}

TEST(TableInt8, TablesThatAreStoredInFloat16) {
  const Dataset data = tokens(96);
  for (const char* store : {"true", "false"}) {
    const RecipeStep first{"convert-float16", {{"weights-only", store}}, {}};
    const auto run = test::run_passes({first, {"qdq-int8", {}, {}}}, kOne, &data);
    ASSERT_TRUE(run.changed) << run.changed.error().message;
    EXPECT_EQ(run.model->graph().nodes_of("Gather")[0]->input(0)->dtype(), DType::kInt8) << store;
    const auto wanted = first_output(*test::model_from_text(kOne), data);
    EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.03) << store;
  }
}

void expect_whole(const std::string& text, const test::OptionMap& options = {}, const std::string& reason = "") {
  const Dataset data = tokens(30);
  const auto run = run_calibrated("qdq-int8", text, &data, options);
  ASSERT_TRUE(run.changed) << run.changed.error().message;
  for (const Node* node : run.model->graph().nodes_of("Gather")) {
    EXPECT_NE(node->input(0)->dtype(), DType::kInt8) << text;
  }
  EXPECT_TRUE(reason.empty() || run.says(reason)) << text;
}

TEST(TableInt8, NearMisses) {
  expect_whole(kOne, {{"tables", "false"}});
  expect_whole(kOne, {{"exclude", "t"}}, "excluded");
  expect_whole(model("e = Gather(t, x) y = MatMul(e, w)", "float[31, 32] t = {}"), {}, "few elements");
  // Read as floats by something else.
  expect_whole(model("e = Gather(t, x) m = ReduceMax<keepdims = 0>(t) s = Add(e, m) y = MatMul(s, w)"), {},
               "also read as floats");
  // Behind a Cast, too; and behind one to whole numbers.
  expect_whole(model("c = Identity(t) e = Gather(c, x) m = ReduceMax<keepdims = 0>(c) s = Add(e, m) y = MatMul(s, w)"),
               {}, "also read as floats");
  expect_whole(model("c = Cast<to = 6>(t) h = Gather(c, x) e = Cast<to = 1>(h) y = MatMul(e, w)"));
  // Columns, not rows.
  expect_whole(
      model("c = Gather<axis = 1>(t, x) p = Transpose<perm = [1, 2, 0]>(c) y = MatMul(p, w)", "float[32, 64] t = {}"));
  // No matrix.
  expect_whole(
      model("e = Gather(t, x) k = ReduceMax<axes = [2], keepdims = 0>(e) y = MatMul(k, w)", "float[96, 4, 32] t = {}"));
}

}  // namespace
}  // namespace onnxfold::table_int8_test
