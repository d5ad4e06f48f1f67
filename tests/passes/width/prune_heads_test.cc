#include <fmt/format.h>
#include <gmock/gmock.h>

#include "analysis/compare/damage.h"
#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::prune_heads_test {
namespace {

using test::model_from_text;

const test::OptionMap kHalf = {{"ratio", "0.5"}};

std::string graph(const std::string& constants, const std::string& nodes, const std::string& more = "") {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, T, 8] x" + more + ") => (float[N, T, 8] y) <" +
         constants + "> { " + nodes + " }";
}

const std::string kWeights =
    "float[8, 8] wq = {}, float[8, 8] wk = {}, float[8, 8] wv = {}, float[8, 8] wo = {}, float[8] bv = {}, float[8] bo "
    "= "
    "{}, int64[4] s = {0, 0, 4, 2}, int64[3] m = {0, 0, 8}, float f = {0.7}";

std::string heads(const std::string& from, const std::string& to, const std::string& shape = "s",
                  const std::string& perm = "0, 2, 1, 3") {
  return fmt::format("{1}_r = Reshape({0}, {2}) {1} = Transpose<perm = [{3}]>({1}_r) ", from, to, shape, perm);
}

std::string attend(const std::string& scores = "a = Mul(p, f) w = Softmax<axis = -1>(a) ") {
  return "p = MatMul(q, k) " + scores +
         "c = MatMul(w, v) t = Transpose<perm = [0, 2, 1, 3]>(c) r = Reshape(t, m) o = MatMul(r, wo) y = Add(o, bo)";
}

const std::string kSeparate =
    graph(kWeights, "ql = MatMul(x, wq) kl = MatMul(x, wk) vl = MatMul(x, wv) vb = Add(vl, bv) " + heads("ql", "q") +
                        heads("kl", "k", "s", "0, 2, 3, 1") + heads("vb", "v") + attend());

Dims weight_dims(const Model& model, const char* product) {
  return *model.graph().find(product)->producer()->input(1)->static_dims();
}

double error_of(const Model& original, const Model& changed, const Dataset& data) {
  return DamageMeter::create(original, data)->measure(changed)->value;
}

std::unique_ptr<Model> pruned(const std::string& text, const test::OptionMap& options = kHalf,
                              std::vector<Remark>* remarks = nullptr) {
  auto model = model_from_text(text);
  const Dataset data = test::normal_data(16, 8, 8);
  const auto changed = test::run_on_data("prune-heads", *model, data, options, remarks);
  EXPECT_TRUE(changed) << changed.error().message;
  const auto ran = record(*model, data, {"y"});
  EXPECT_TRUE(ran) << ran.error().message;
  return model;
}

TEST(PruneHeads, ColumnsRowsAndShapesGetNarrower) {
  const auto model = pruned(kSeparate);
  for (const char* product : {"ql", "kl", "vl"}) EXPECT_EQ(weight_dims(*model, product), (Dims{8, 4})) << product;
  EXPECT_EQ(weight_dims(*model, "o"), (Dims{4, 8}));
  EXPECT_EQ(*model->graph().find("vb")->producer()->input(1)->static_dims(), (Dims{4}));
  EXPECT_EQ(*to_int64s(*model->graph().find("q_r")->producer()->input(1)->constant()),
            (std::vector<std::int64_t>{0, 0, 2, 2}));
}

TEST(PruneHeads, PackedQueriesKeysAndValues) {
  const auto model = pruned(graph(
      "float[8, 24] w3 = {}, float[24] b3 = {}, float[8, 8] wo = {}, float[8] bo = {}, int64[5] s = {0, 0, 3, 4, 2}, "
      "int64[3] m = {0, 0, 8}, float f = {0.7}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}",
      "l = MatMul(x, w3) b = Add(l, b3) z = Reshape(b, s) zt = Transpose<perm = [2, 0, 3, 1, 4]>(z) q = Gather(zt, i0) "
      "kk = Gather(zt, i1) v = Gather(zt, i2) k = Transpose<perm = [0, 1, 3, 2]>(kk) " +
          attend()));
  EXPECT_EQ(weight_dims(*model, "l"), (Dims{8, 12}));
  EXPECT_EQ(*to_int64s(*model->graph().find("z")->producer()->input(1)->constant()),
            (std::vector<std::int64_t>{0, 0, 3, 2, 2}));
}

// Four query heads on two key-value heads: two query heads go with one of those.
TEST(PruneHeads, GroupedHeadsGoTogether) {
  const auto model = pruned(
      graph("float[8, 8] wq = {}, float[8, 4] wk = {}, float[8, 4] wv = {}, float[8, 8] wo = {}, float[8] bo = {}, "
            "int64[4] s = "
            "{0, 0, 4, 2}, int64[4] s2 = {0, 0, 2, 2}, int64[3] m = {0, 0, 8}, float f = {0.7}, int64[1] two = {2}, "
            "int64[5] e = "
            "{1, 1, 2, 1, 1}, int64[4] g = {0, 4, -1, 2}",
            "ql = MatMul(x, wq) kl = MatMul(x, wk) vl = MatMul(x, wv) " + heads("ql", "q") + heads("kl", "k2", "s2") +
                heads("vl", "v2", "s2") +
                "k3 = Unsqueeze(k2, two) ke = Expand(k3, e) kg = Reshape(ke, g) k = Transpose<perm = [0, 1, 3, 2]>(kg) "
                "v3 = Unsqueeze(v2, two) ve = Expand(v3, e) v = Reshape(ve, g) " +
                attend()));
  EXPECT_EQ(weight_dims(*model, "ql"), (Dims{8, 4}));
  EXPECT_EQ(weight_dims(*model, "kl"), (Dims{8, 2}));
  EXPECT_EQ(weight_dims(*model, "vl"), (Dims{8, 2}));
  EXPECT_EQ(weight_dims(*model, "o"), (Dims{4, 8}));
}

TEST(PruneHeads, MasksWithAnEntryPerHeadLoseEntriesToo) {
  const std::string text = graph(kWeights,
                                 "ql = MatMul(x, wq) kl = MatMul(x, wk) vl = MatMul(x, wv) " + heads("ql", "q") +
                                     heads("kl", "k", "s", "0, 2, 3, 1") + heads("vl", "v") +
                                     attend("a = Mul(p, f) ab = Add(a, bias) w = Softmax<axis = -1>(ab) "),
                                 ", float[1, 4, 1, 1] bias");
  auto model = model_from_text(text);
  Dataset data = test::normal_data(16, 8, 8);
  for (Feeds& feeds : data.batches)
    feeds["bias"] = Datum(
        *to_array(*from_doubles(DType::kFloat32, {1, 4, 1, 1}, std::vector<double>{0, 1, 2, 3}), Precision::kFloat32));
  const auto changed = test::run_on_data("prune-heads", *model, data, kHalf);
  ASSERT_TRUE(changed && *changed) << (changed ? "unchanged" : changed.error().message);
  EXPECT_EQ(model->graph().nodes_of("Gather").size(), 1U);
  const auto ran = record(*model, data, {"y"});
  EXPECT_TRUE(ran) << ran.error().message;
}

// A head whose output projection is zero goes for nothing; at any number of them the result is the original.
TEST(PruneHeads, IdleHeadsGoForNothing) {
  auto model = model_from_text(kSeparate);
  Value* wo = model->graph().find("wo");
  std::vector<double> numbers = *to_doubles(*wo->constant());
  for (std::size_t i = 2 * 8; i < 4 * 8; ++i) numbers[i] = 0;  // head 1
  model->graph().replace_all_uses(
      *wo, *model->graph().add_initializer("zeros", *from_doubles(DType::kFloat32, {8, 8}, numbers)));
  const auto original = model->clone();
  const Dataset data = test::normal_data(16, 8, 8);
  const auto changed = test::run_on_data("prune-heads", *model, data, {{"ratio", "0.25"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(weight_dims(*model, "ql"), (Dims{8, 6}));
  EXPECT_LT(error_of(*original, *model, data), 1e-3);
}

TEST(PruneHeads, RefitBeatsMagnitude) {
  const auto original = model_from_text(kSeparate);
  const Dataset data = test::normal_data(16, 8, 8);
  const auto plain = pruned(kSeparate, {{"ratio", "0.5"}, {"score", "magnitude"}, {"refit", "false"}});
  const auto fitted = pruned(kSeparate);
  EXPECT_LT(error_of(*original, *fitted, data), error_of(*original, *plain, data));
}

TEST(PruneHeads, FusedOperatorsGetFewerHeads) {
  const auto model = pruned(
      "<ir_version: 11, opset_import: [\"\" : 23]> g (float[N, T, 8] x) => (float[N, T, 8] y) <float[8, 8] wq = {}, "
      "float[8, 8] wk = {}, float[8, 8] wv = {}, float[8, 8] wo = {}> { q = MatMul(x, wq) k = MatMul(x, wk) v = "
      "MatMul(x, "
      "wv) c = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v) y = MatMul(c, wo) }");
  const Node* node = model->graph().nodes_of("Attention").front();
  EXPECT_EQ(node->attr_int("q_num_heads", 0), 2);
  EXPECT_EQ(node->attr_int("kv_num_heads", 0), 2);
  EXPECT_EQ(weight_dims(*model, "q"), (Dims{8, 4}));
}

TEST(PruneHeads, WeightsInsideTheOperator) {
  const auto model = pruned(
      "<ir_version: 8, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (float[N, T, 8] x) => (float[N, T, 8] y) "
      "<float[8, 24] w = {}, float[24] b = {}, float[8, 8] wo = {}> { c = com.microsoft.Attention<num_heads = 4>(x, w, "
      "b) "
      "y = MatMul(c, wo) }");
  const Node* node = model->graph().nodes_of("Attention", "com.microsoft").front();
  EXPECT_EQ(node->attr_int("num_heads", 0), 2);
  EXPECT_EQ(*node->input(1)->static_dims(), (Dims{8, 12}));
  EXPECT_EQ(*node->input(2)->static_dims(), (Dims{12}));
}

TEST(PruneHeads, NothingAskedForNothingChanged) { test::expect_unchanged("prune-heads", kSeparate, {{"ratio", "0"}}); }

// A norm over all heads, an inner value that others read, a gate, one head, a shared weight.
TEST(PruneHeads, NearMissesStay) {
  const std::string linears = "ql = MatMul(x, wq) kl = MatMul(x, wk) vl = MatMul(x, wv) ";
  const std::string rest = heads("kl", "k", "s", "0, 2, 3, 1") + heads("vl", "v");
  test::expect_unchanged("prune-heads",
                         graph(kWeights + ", float[8] gain = {}",
                               linears + "qn = LayerNormalization(ql, gain) " + heads("qn", "q") + rest + attend()));
  test::expect_unchanged(
      "prune-heads",
      graph(kWeights, linears + heads("ql", "q") + rest +
                          "p = MatMul(q, k) a = Mul(p, f) w = Softmax<axis = -1>(a) c = MatMul(w, v) t = "
                          "Transpose<perm = [0, 2, 1, 3]>(c) r = Reshape(t, m) o = MatMul(r, wo) z = "
                          "Add(o, bo) y = Add(z, ql)"));
  test::expect_unchanged("prune-heads", graph(kWeights, "ql = MatMul(x, wq) kl = MatMul(x, wq) vl = MatMul(x, wv) " +
                                                            heads("ql", "q") + rest + attend()));
}

}  // namespace
}  // namespace onnxfold::prune_heads_test
