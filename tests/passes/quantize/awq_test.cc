#include <gtest/gtest.h>

#include <cmath>

#include "ir/verify.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::awq_test {
namespace {

using test::first_output;
using test::OptionMap;
using test::relative_distance;
using test::run_calibrated;

// A few channels are much larger than the others, so that their weights matter more.
Dataset outliers(std::int64_t rows, std::int64_t width) {
  std::vector<double> numbers(static_cast<std::size_t>(rows * width));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::size_t channel = i % static_cast<std::size_t>(width);
    numbers[i] = std::sin(static_cast<double>(i * i % 7919)) * (channel % 16 == 3 ? 20 : 1);
  }
  Dataset data;
  Feeds feeds;
  feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {rows, width}, numbers), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(rows);
  return data;
}

std::string graph(const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 23, \"com.microsoft\" : 1]> g (float[160, 64] x) => (float[160, 48] "
         "y) "
         "<float[64] g = {}, float[64] b = {}, float[64, 48] v = {}, float[64, 48] w = {}, float[64, 64] u = {}, "
         "float[64] c = {}, float[48] d = {}> { " +
         nodes + " }";
}

const OptionMap kThreeBits = {{"bits", "3"}, {"block", "32"}, {"min-elements", "1"}};

void expect_better_than_search(const std::string& nodes) {
  const Dataset data = outliers(160, 64);
  const auto awq = run_calibrated("awq", graph(nodes), &data, kThreeBits);
  const auto search = run_calibrated("rtn-search", graph(nodes), nullptr, kThreeBits);
  ASSERT_TRUE(awq.did()) << nodes;
  ASSERT_TRUE(search.did());
  EXPECT_TRUE(verify(*awq.model));
  EXPECT_EQ(awq.model->graph().node_count(), search.model->graph().node_count());
  const auto wanted = first_output(*test::model_from_text(graph(nodes)), data);
  EXPECT_LT(relative_distance(first_output(*awq.model, data), wanted),
            0.95 * relative_distance(first_output(*search.model, data), wanted))
      << nodes;
}

TEST(Awq, FoldsIntoNormsAndEarlierLinears) {
  expect_better_than_search(
      "s = Identity(x) n = LayerNormalization(s, g, b) p = MatMul(n, v) q = MatMul(n, w) y = Add(p, q)");
  expect_better_than_search("n = RMSNormalization(x, g) y = MatMul(n, v)");
  expect_better_than_search("h = Gemm(x, u, c) r = Relu(h) y = Gemm(r, v, d)");
}

TEST(Awq, FoldsFromValuesToTheOutputOfAttention) {
  const std::string text =
      "<ir_version: 10, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (float[160, 64] x) => (float[4, 40, 64] y) "
      "<float[64, 64] q = {}, float[64, 64] k = {}, float[64, 64] v = {}, float[64] vb = {}, float[64, 64] o = {}, "
      "int64[4] split = {4, 40, 4, 16}, int64[3] join = {4, 40, 64}, int64[3] rows = {4, 40, 64}, float scale = "
      "{0.25}> { xr = Reshape(x, rows) xq = MatMul(xr, q) xk = MatMul(xr, k) xv = MatMul(xr, v) xvb = Add(xv, vb) "
      "rq = Reshape(xq, split) rk = Reshape(xk, split) rv = Reshape(xvb, split) "
      "tq = Transpose<perm=[0,2,1,3]>(rq) tk = Transpose<perm=[0,2,3,1]>(rk) tv = Transpose<perm=[0,2,1,3]>(rv) "
      "s = MatMul(tq, tk) m = Mul(s, scale) p = Softmax<axis=-1>(m) c = MatMul(p, tv) t = "
      "Transpose<perm=[0,2,1,3]>(c) j = Reshape(t, join) y = MatMul(j, o) }";
  const Dataset data = outliers(160, 64);
  const auto run = run_calibrated("awq", text, &data, kThreeBits);
  ASSERT_TRUE(run.did());
  EXPECT_TRUE(run.says("scaled by magnitude") || run.says("no exponent lowers"));
  const auto search = run_calibrated("rtn-search", text, nullptr, kThreeBits);
  const auto wanted = first_output(*test::model_from_text(text), data);
  EXPECT_LT(relative_distance(first_output(*run.model, data), wanted),
            relative_distance(first_output(*search.model, data), wanted));
}

TEST(Awq, EveryFormAndWithoutClipping) {
  const Dataset data = outliers(160, 64);
  const std::string text = graph("n = LayerNormalization(x, g, b) p = MatMul(n, v) q = MatMul(n, w) y = Add(p, q)");
  const auto wanted = first_output(*test::model_from_text(text), data);
  for (const OptionMap& more : std::vector<OptionMap>{{{"clip", "false"}},
                                                      {{"symmetric", "false"}},
                                                      {{"form", "dequantizelinear"}, {"bits", "4"}},
                                                      {{"scales", "float16"}},
                                                      {{"scales", "int8"}},
                                                      {{"block", "channel"}},
                                                      {{"bits", "8"}}}) {
    OptionMap options = kThreeBits;
    for (const auto& [key, value] : more) options[key] = value;
    const auto run = run_calibrated("awq", text, &data, options);
    ASSERT_TRUE(run.changed) << run.changed.error().message;
    EXPECT_TRUE(*run.changed);
    EXPECT_LT(relative_distance(first_output(*run.model, data), wanted), 0.3);
  }
}

TEST(Awq, SaysWhereItDoesNotFold) {
  const Dataset data = outliers(160, 64);
  const auto run = run_calibrated("awq", graph("t = Tanh(x) y = MatMul(t, v)"), &data, kThreeBits);
  EXPECT_TRUE(run.did());  // rounded all the same
  EXPECT_TRUE(run.says("not scaled"));
  EXPECT_FALSE(run_calibrated("awq", graph("y = MatMul(x, v)"), nullptr, kThreeBits).changed);
  // The norm has a reader that is no Linear; a weight that two products share is not scaled for one of them.
  for (const char* nodes : {"n = LayerNormalization(x, g, b) p = MatMul(n, v) s = ReduceSum(n) y = Add(p, s)",
                            "n = LayerNormalization(x, g, b) p = MatMul(n, v) q = MatMul(x, v) y = Add(p, q)"}) {
    const auto near = run_calibrated("awq", graph(nodes), &data, kThreeBits);
    EXPECT_TRUE(near.did());
    EXPECT_FALSE(near.says("scaled by magnitude")) << nodes;
  }
}

}  // namespace
}  // namespace onnxfold::awq_test
