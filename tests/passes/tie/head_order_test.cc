#include "passes/tie/head_order.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "analysis/algebra/matrix.h"
#include "analysis/depth/part_table.h"
#include "passes/tie/layer_alignment.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::head_order_test {
namespace {

// Blocks of attention on a stream of 8 channels: 4 heads of 2, keys and values of `groups` heads. `between` stands
// between scores and Softmax.
std::string block(int i, int groups, const std::string& between = "") {
  const std::string repeat =
      groups == 4 ? "k{0} = Transpose<perm = [0, 2, 3, 1]>(kr{0}) v{0} = Transpose<perm = [0, 2, 1, 3]>(vr{0}) "
                  : "kt{0} = Transpose<perm = [0, 2, 1, 3]>(kr{0}) vt{0} = Transpose<perm = [0, 2, 1, 3]>(vr{0}) "
                    "ku{0} = Unsqueeze(kt{0}, two) ke{0} = Expand(ku{0}, e) kg{0} = Reshape(ke{0}, g) "
                    "k{0} = Transpose<perm = [0, 1, 3, 2]>(kg{0}) "
                    "vu{0} = Unsqueeze(vt{0}, two) ve{0} = Expand(vu{0}, e) v{0} = Reshape(ve{0}, g) ";
  const std::string text =
      "n{0} = LayerNormalization(x{0}, ones) ql{0} = MatMul(n{0}, wq{0}) kl{0} = MatMul(n{0}, wk{0}) "
      "vl{0} = MatMul(n{0}, wv{0}) qb{0} = Add(ql{0}, bq{0}) vb{0} = Add(vl{0}, bv{0}) "
      "qr{0} = Reshape(qb{0}, s) kr{0} = Reshape(kl{0}, s2) vr{0} = Reshape(vb{0}, s2) "
      "q{0} = Transpose<perm = [0, 2, 1, 3]>(qr{0}) " +
      repeat + "p{0} = MatMul(q{0}, k{0}) " + (between.empty() ? "a{0} = Mul(p{0}, f) " : between) +
      "w{0} = Softmax<axis = -1>(a{0}) c{0} = MatMul(w{0}, v{0}) t{0} = Transpose<perm = [0, 2, 1, 3]>(c{0}) "
      "r{0} = Reshape(t{0}, m) o{0} = MatMul(r{0}, wo{0}) b{0} = Add(o{0}, bo{0}) x{1} = Add(x{0}, b{0}) ";
  return fmt::format(fmt::runtime(text), i, i + 1);
}

std::unique_ptr<Model> blocks(int count, int groups, const std::string& between = "") {
  const int kv = 2 * groups;
  std::string constants =
      "double[8] ones = {1, 1, 1, 1, 1, 1, 1, 1}, int64[4] s = {0, 0, 4, 2}, int64[3] m = {0, 0, 8}, double f = {0.7}, "
      "double[4, 1, 1] slopes = {0.5, 0.25, 0.125, 0.0625}, int64[1] two = {2}, int64[5] e = {1, 1, 2, 1, 1}, "
      "int64[4] g = {0, 4, -1, 2}, " +
      fmt::format("int64[4] s2 = {{0, 0, {}, 2}}", groups);
  std::string nodes;
  for (int i = 0; i < count; ++i) {
    constants += fmt::format(
        ", double[8, 8] wq{0} = {{}}, double[8] bq{0} = {{}}, double[8, {1}] wk{0} = {{}}, double[8, {1}] wv{0} = "
        "{{}}, "
        "double[{1}] bv{0} = {{}}, double[8, 8] wo{0} = {{}}, double[8] bo{0} = {{}}",
        i, kv);
    nodes += block(i, groups, between);
  }
  return test::model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (double[N, 3, 8] x0) => (double[N, 3, 8] "
      "y) <" +
      constants + "> { " + nodes + fmt::format("y = Identity(x{}) }}", count));
}

std::vector<double> numbers(const Graph& graph, const std::string& name) {
  return *to_doubles(*graph.find(name)->constant());
}

void set(Graph& graph, const std::string& name, const std::vector<double>& values) {
  Value* old = graph.find(name);
  Tensor made = *from_doubles(DType::kFloat64, old->constant()->dims(), values);
  graph.replace_all_uses(*old, *graph.add_initializer("moved", std::move(made)));
}

// Weights of block 0 with heads (of 2 columns) in the order `of`, as weights of block `to`.
void move_columns(Graph& graph, const std::string& name, const std::vector<int>& of, const std::string& to = "1",
                  double scale = 1) {
  const std::vector<double> old = numbers(graph, name + "0");
  const std::size_t cols = 2 * of.size();
  std::vector<double> moved(old.size());
  for (std::size_t i = 0; i < old.size(); ++i) {
    const std::size_t row = i / cols, col = i % cols;
    moved[i] = scale * old[row * cols + 2 * static_cast<std::size_t>(of[col / 2]) + col % 2];
  }
  set(graph, name + to, moved);
}
void move_rows(Graph& graph, const std::string& name, const std::vector<int>& of, const std::string& to = "1",
               double scale = 1) {
  const std::vector<double> old = numbers(graph, name + "0");
  std::vector<double> moved(old.size());
  for (std::size_t i = 0; i < old.size(); ++i) {
    const std::size_t row = i / 8, col = i % 8;
    moved[i] = scale * old[(2 * static_cast<std::size_t>(of[row / 2]) + row % 2) * 8 + col];
  }
  set(graph, name + to, moved);
}

// Block 1 is block 0 with its heads in another order: `queries` of 4, `groups` those of keys and values.
std::unique_ptr<Model> disguised(const std::vector<int>& queries, const std::vector<int>& groups) {
  auto model = blocks(2, static_cast<int>(groups.size()));
  Graph& graph = model->graph();
  for (const char* name : {"wq", "bq"}) move_columns(graph, name, queries);
  for (const char* name : {"wk", "wv", "bv"}) move_columns(graph, name, groups);
  move_rows(graph, "wo", queries);
  set(graph, "bo1", numbers(graph, "bo0"));
  return model;
}

// What the products of block 1 read.
std::vector<double> weight(const Model& model, const std::string& product) {
  return *to_doubles(*model.graph().find(product)->producer()->input(1)->constant());
}

void expect_recovered(const std::vector<int>& queries, const std::vector<int>& groups, bool rotate) {
  const auto model = disguised(queries, groups);
  const auto original = model->clone();
  EXPECT_NE(weight(*model, "ql1"), weight(*model, "ql0"));
  const auto count = align_heads(*model, {0, 1}, rotate);
  ASSERT_TRUE(count) << count.error().message;
  EXPECT_EQ(*count, 1);
  for (const char* name : {"ql", "kl", "vl", "o"}) {
    const auto a = weight(*model, std::string(name) + "0"), b = weight(*model, std::string(name) + "1");
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], rotate ? 1e-12 : 0) << name;
  }
  EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-12), "");
}

TEST(HeadOrder, PermutedHeadsAreFound) { expect_recovered({2, 0, 3, 1}, {2, 0, 3, 1}, false); }
TEST(HeadOrder, GroupedQueriesMoveWithTheirGroupAndInside) { expect_recovered({3, 2, 0, 1}, {1, 0}, false); }
TEST(HeadOrder, RotationsFindPermutationsToo) { expect_recovered({1, 3, 0, 2}, {1, 3, 0, 2}, true); }

TEST(HeadOrder, RandomLayersComeCloserAndTheModelStays) {
  for (const int groups : {4, 2}) {
    for (const bool rotate : {false, true}) {
      const auto model = blocks(3, groups);
      const auto original = model->clone();
      const auto distance = [&] {
        double squared = 0;
        for (int l = 1; l < 3; ++l) {
          for (const char* name : {"ql", "kl", "vl", "o"}) {
            const auto a = weight(*model, name + std::to_string(l - 1)), b = weight(*model, name + std::to_string(l));
            for (std::size_t i = 0; i < a.size(); ++i) squared += (a[i] - b[i]) * (a[i] - b[i]);
          }
        }
        return squared;
      };
      const double before = distance();
      const auto count = align_heads(*model, {0, 1, 2}, rotate);
      ASSERT_TRUE(count) << count.error().message;
      if (rotate) {
        EXPECT_LT(distance(), before);
      }
      EXPECT_EQ(test::difference(*original, *model, Precision::kFloat64, 1e-12), "") << groups << rotate;
    }
  }
}

// Slopes of ALiBi belong to their heads.
TEST(HeadOrder, MasksOfTheirOwnKeepHeads) {
  const auto model = blocks(2, 4, "z{0} = Mul(p{0}, f) a{0} = Add(z{0}, slopes) ");
  const auto count = align_heads(*model, {0, 1}, false);
  ASSERT_TRUE(count) << count.error().message;
  EXPECT_EQ(*count, 0);
}

TEST(HeadOrder, TiedAfterAlignmentNothingIsLost) {
  const auto original = disguised({2, 0, 3, 1}, {2, 0, 3, 1});
  for (const auto& [align, lossless] :
       {std::pair("heads", true), std::pair("all", true), std::pair("neurons", false)}) {
    const auto tied = original->clone();
    ASSERT_TRUE(test::run_pass("tie-layers", *tied, {{"rank", "0"}, {"align", align}}));
    EXPECT_EQ(test::difference(*original, *tied, Precision::kFloat64, 1e-12).empty(), lossless) << align;
  }
}

// Matrices that analyze --linearity gives to fit-linear-depth, and those that the pass takes.
std::pair<std::size_t, std::size_t> offered_and_taken(const Model& model) {
  const auto table = linearity_table(model, **with_aligned_layers(model, "all"));
  std::size_t offered = 0, taken = 0;
  for (const PartRow& row : table->rows) offered += row.use.find("fit-linear-depth") != std::string::npos ? 1 : 0;
  std::vector<Remark> remarks;
  EXPECT_TRUE(test::run_pass("fit-linear-depth", *model.clone(), {}, &remarks));
  for (const Remark& remark : remarks) taken += remark.kind == Remark::Kind::kApplied ? 1 : 0;
  return {offered, taken};
}

// Layers on a line over depth, then their heads in other orders: query, key, value and output are found.
TEST(HeadOrder, AnalyzeFindsLinesBehindPermutedHeadsAsThePassDoes) {
  const auto model = blocks(4, 4);
  Graph& graph = model->graph();
  const std::vector<std::vector<int>> orders = {{2, 0, 3, 1}, {1, 3, 0, 2}, {3, 2, 1, 0}};
  for (std::size_t l = 1; l < 4; ++l) {
    const double scale = 1 + 0.2 * static_cast<double>(l);
    for (const char* name : {"wq", "wk", "wv"}) move_columns(graph, name, orders[l - 1], std::to_string(l), scale);
    move_rows(graph, "wo", orders[l - 1], std::to_string(l), scale);
  }
  EXPECT_EQ(offered_and_taken(*model), std::make_pair(std::size_t{4}, std::size_t{4}));
  EXPECT_EQ(offered_and_taken(*blocks(6, 4)), std::make_pair(std::size_t{0}, std::size_t{0}));
}

TEST(HeadOrder, SharedConstantsStay) {
  const auto model = blocks(2, 4);
  Graph& graph = model->graph();
  for (const char* name : {"wq", "wk", "wv", "wo"}) {
    graph.replace_all_uses(*graph.find(std::string(name) + "1"), *graph.find(std::string(name) + "0"));
  }
  const auto count = align_heads(*model, {0, 1}, false);
  ASSERT_TRUE(count) << count.error().message;
  EXPECT_EQ(*count, 0);
}

}  // namespace
}  // namespace onnxfold::head_order_test
