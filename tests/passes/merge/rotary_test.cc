// Rotary embedding: heads move and turn by what commutes with the rotation, in every spelling, and by nothing else.
#include <gtest/gtest.h>

#include <cmath>

#include "analysis/algebra/orthogonal.h"
#include "analysis/align/rotary_parts.h"
#include "analysis/structure/axis_groups.h"
#include "analysis/structure/correspondence.h"
#include "passes/merge/alignment.h"
#include "passes/merge/transport_flow.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::rotary_test {
namespace {

using test::difference;
using test::largest_difference;
using Pairs = std::vector<std::pair<std::int64_t, std::int64_t>>;

// Heads of eight: four of queries on two of keys, or as many of both.
constexpr std::int64_t kHead = 8, kKeys = 2, kStream = 12, kLength = 6;

const Pairs kHalves = {{0, 4}, {1, 5}, {2, 6}, {3, 7}}, kNeighbours = {{0, 1}, {2, 3}, {4, 5}, {6, 7}};

struct Spelling {
  std::string name;
  std::string chain;  // makes `*e` of `*t` [2, heads, 6, 8]; '*' is q or k
  Pairs pairs;
  std::vector<std::int64_t> free;
  std::int64_t table = kHead;  // columns of cos and sin
  std::int64_t queries = 4;
  std::string norm = {};  // in front of the chain: makes `*t` of `*u`

  // One operator that rotates, and attends as well.
  bool fused() const { return chain.find("GroupQueryAttention") != std::string::npos; }
};

std::string halves() {
  return "*1 = Slice(*t, at0, at4, last) *2 = Slice(*t, at4, at9, last) *n = Neg(*2) *h = Concat <axis = -1> (*n, *1) "
         "*c = Mul(*t, cos) *s = Mul(*h, sin) *e = Add(*c, *s) ";
}

std::vector<Spelling> spellings() {
  const std::string neighbours =
      "*1 = Slice(*t, at0, at9, last, by2) *2 = Slice(*t, at1, at9, last, by2) *n = Neg(*2) "
      "*nu = Unsqueeze(*n, at4) *1u = Unsqueeze(*1, at4) *w = Concat <axis = -1> (*nu, *1u) *h = Reshape(*w, heads_*) "
      "*c = Mul(*t, cos) *s = Mul(*h, sin) *e = Add(*c, *s) ";
  const std::string partial =
      "*g = Slice(*t, at0, at4, last) *o = Slice(*t, at4, at9, last) *1 = Slice(*g, at0, at2, last) "
      "*2 = Slice(*g, at2, at9, last) *n = Neg(*2) *h = Concat <axis = -1> (*n, *1) *c = Mul(*g, cos) "
      "*s = Mul(*h, sin) *a = Add(*c, *s) *e = Concat <axis = -1> (*a, *o) ";
  // Two products instead of a rotated copy: x1 cos - x2 sin and x2 cos + x1 sin.
  const std::string products =
      "*1 = Slice(*t, at0, at4, last) *2 = Slice(*t, at4, at9, last) *a = Mul(*1, cos) *g = Mul(*2, sin) "
      "*l = Sub(*a, *g) *c = Mul(*2, cos) *d = Mul(*1, sin) *o = Add(*c, *d) *e = Concat <axis = -1> (*l, *o) ";
  const std::string standard = "*e = RotaryEmbedding(*t, cos, sin, places) ";
  const std::string standard_neighbours =
      "*e = RotaryEmbedding <interleaved = 1, rotary_embedding_dim = 4> (*t, cos, sin, places) ";
  const std::string runtime = "*e = com.microsoft.RotaryEmbedding(*t, places, cos, sin) ";
  const std::string grouped =
      "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1, scale = 0.35";
  const std::string inputs = "(qb, kb, vb, , , last_key, length, cos, sin";
  const std::string norm = "*t = RMSNormalization <axis = -1> (*0, gain) ";
  return {{"Halves", halves(), kHalves, {}},
          {"OneKeyAQuery", halves(), kHalves, {}, kHead, kKeys},
          {"Neighbours", neighbours, kNeighbours, {}},
          {"Partial", partial, {{0, 2}, {1, 3}}, {4, 5, 6, 7}, 4},
          {"Products", products, kHalves, {}, 4},
          {"Standard", standard, kHalves, {}, 4},
          {"StandardPartialNeighbours", standard_neighbours, {{0, 1}, {2, 3}}, {4, 5, 6, 7}, 2},
          {"Runtime", runtime, kHalves, {}, 4},
          {"Grouped", grouped + "> " + inputs + ")", kHalves, {}, 4},
          {"GroupedNeighbours", grouped + ", rotary_interleaved = 1> " + inputs + ")", kNeighbours, {}, 4},
          {"GroupedPartial", grouped + "> " + inputs + ", places)", {{0, 2}, {1, 3}}, {4, 5, 6, 7}, 2},
          {"Normed", halves(), kHalves, {}, kHead, 4, norm}};
}

Spelling grouped_spelling() {
  for (const Spelling& spelling : spellings()) {
    if (spelling.name == "Grouped") return spelling;
  }
  return {};
}

std::string replaced(std::string text, char from, const std::string& to) {
  std::string result;
  for (const char c : text) result += c == from ? to : std::string(1, c);
  return result;
}

// The operators take no doubles.
bool in_float(const Spelling& spelling) {
  return spelling.fused() || spelling.chain.find("RotaryEmbedding") != std::string::npos;
}

std::string attention_nodes(const Spelling& spelling) {
  std::string nodes = "s0 = Gather(embed, x) ";
  for (const std::string p : {"q", "k", "v"}) {
    const bool normed = p != "v" && !spelling.norm.empty();
    nodes += p + "m = MatMul(s0, w" + p + ") " + p + "b = Add(" + p + "m, b" + p + ") ";
    if (spelling.fused()) continue;
    nodes += p + "r = Reshape(" + p + "b, heads_in_" + p + ") " + p + (normed ? "0" : "t") +
             " = Transpose <perm = [0, 2, 1, 3]> (" + p + "r) ";
    if (normed) nodes += replaced(spelling.norm, '*', p);
    if (p != "v") nodes += replaced(spelling.chain, '*', p);
  }
  if (spelling.fused()) {
    nodes += "j, kept_keys, kept_values = " + spelling.chain;
  } else {
    nodes +=
        "ku = Unsqueeze(ke, at2) kx = Expand(ku, more) kk = Reshape(kx, spread) vu = Unsqueeze(vt, at2) "
        "vx = Expand(vu, more) vv = Reshape(vx, spread) kf = Transpose <perm = [0, 1, 3, 2]> (kk) c = MatMul(qe, kf) "
        "d = Mul(c, third) p = Softmax <axis = -1> (d) z = MatMul(p, vv) y = Transpose <perm = [0, 2, 1, 3]> (z) "
        "j = Reshape(y, join)";
  }
  return nodes + " o = MatMul(j, wo) s1 = Add(s0, o) out = MatMul(s1, head)";
}

std::string text_of(const Spelling& spelling) {
  const std::int64_t heads = spelling.queries, wide = heads * kHead;
  const std::string table = in_float(spelling) ? "[6, " : "[1, 1, 6, ";
  const std::string columns = std::to_string(spelling.table) + "] ", q = std::to_string(wide);
  const std::string group = std::to_string(heads / kKeys);
  return "<ir_version: 11, opset_import: [\"\" : 23, \"com.microsoft\" : 1]> g (int64[2, 6] x) => (double[2, 6, 5] "
         "out) <double[9, 12] embed = {}, double[12, " +
         q + "] wq = {}, double[12, 16] wk = {}, double[12, 16] wv = {}, double[" + q +
         "] bq = {}, double[16] bk = {}, " + "double[16] bv = {}, double[" + q +
         ", 12] wo = {}, double[12, 5] head = {}, double[8] gain = {}, double" + table + columns + "cos = {}, double" +
         table + columns +
         "sin = {}, double third = {0.35}, int64[2, 6] places = {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}, " +
         "int64[4] heads_in_q = {2, 6, " + std::to_string(heads) + ", 8}, int64[4] heads_in_k = {2, 6, 2, 8}, " +
         "int64[4] heads_in_v = {2, 6, 2, 8}, int64[4] heads_q = {2, " + std::to_string(heads) +
         ", 6, 8}, int64[4] heads_k = {2, 2, 6, 8}, int64[5] more = {1, 1, " + group +
         ", 1, 1}, int64[4] spread = {2, " + std::to_string(heads) + ", 6, 8}, int64[3] join = {2, 6, " + q +
         "}, int64[1] at0 = {0}, int64[1] at1 = {1}, int64[1] at2 = {2}, int64[1] at4 = {4}, int64[1] at9 = {9}, " +
         "int64[1] last = {3}, int64[1] by2 = {2}, int32[2] last_key = {5, 5}, int32[1] length = {6}> { " +
         attention_nodes(spelling) + " }";
}

// cos or sin of position times frequency, where halves or neighbours share a frequency.
Matrix table(const Spelling& spelling, bool sine) {
  const std::int64_t angles = static_cast<std::int64_t>(spelling.pairs.size());
  Matrix values(kLength, spelling.table);
  for (std::int64_t t = 0; t < kLength; ++t) {
    for (std::int64_t i = 0; i < spelling.table; ++i) {
      const bool beside = spelling.pairs.front().second == 1 && spelling.table == 2 * angles;
      const std::int64_t frequency = beside ? i / 2 : i % angles;
      const double angle = static_cast<double>(t) * std::pow(10.0, -0.7 * static_cast<double>(frequency));
      values.at(t, i) = sine ? std::sin(angle) : std::cos(angle);
    }
  }
  return values;
}

std::unique_ptr<Model> model_of(const Spelling& spelling) {
  std::string text = text_of(spelling);
  for (std::size_t at = text.find("double"); in_float(spelling) && at != std::string::npos; at = text.find("double")) {
    text.replace(at, 6, "float");
  }
  auto model = test::model_from_text(text);
  std::uint32_t seed = 3;
  for (const char* name : {"embed", "wq", "wk", "wv", "bq", "bk", "bv", "wo", "head", "gain"}) {
    if (model->graph().find(name) == nullptr) continue;
    test::set_weight(*model, name, test::random_matrix(1, parameter(model->graph().find(name))->size(), ++seed));
  }
  test::set_weight(*model, "cos", table(spelling, false));
  test::set_weight(*model, "sin", table(spelling, true));
  return model;
}

// What may act on a head of queries and keys.
Matrix turn(const Spelling& spelling, std::uint32_t seed, bool rotate) {
  Matrix map = identity_matrix(kHead);
  const Matrix angles = test::random_matrix(1, kHead, seed);
  std::size_t at = 0;
  for (const auto& [a, b] : spelling.pairs) {
    const bool sign = !spelling.norm.empty();
    const double angle = sign ? (angles.data[at] > 0 ? std::acos(-1.0) : 0) : 3 * angles.data[at];
    ++at;
    map.at(a, a) = map.at(b, b) = std::cos(angle);
    map.at(a, b) = sign ? 0 : std::sin(angle);
    map.at(b, a) = -map.at(a, b);
  }
  if (spelling.free.empty()) return map;
  const auto count = static_cast<std::int64_t>(spelling.free.size());
  const Matrix inner =
      rotate ? procrustes(test::random_matrix(count, count, seed + 50)) : permutation_matrix({2, 0, 3, 1});
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < count; ++j) {
      map.at(spelling.free[static_cast<std::size_t>(i)], spelling.free[static_cast<std::size_t>(j)]) = inner.at(i, j);
    }
  }
  return map;
}

// Columns of `heads` heads: head h goes to place order[h], turned by maps[h].
Matrix of_heads(const std::vector<std::int64_t>& order, const std::vector<Matrix>& maps) {
  const auto size = static_cast<std::int64_t>(order.size()) * kHead;
  Matrix whole(size, size);
  for (std::size_t h = 0; h < order.size(); ++h) {
    for (std::int64_t i = 0; i < kHead; ++i) {
      for (std::int64_t j = 0; j < kHead; ++j) {
        whole.at(static_cast<std::int64_t>(h) * kHead + i, order[h] * kHead + j) = maps[h].at(i, j);
      }
    }
  }
  return whole;
}

void multiply(Model& model, const std::string& name, std::int64_t rows, const Matrix& map, bool from_left = false) {
  const std::int64_t cols = parameter(model.graph().find(name))->size() / rows;
  const Matrix old(rows, cols, *to_doubles(*parameter(model.graph().find(name))));
  test::set_weight(model, name, from_left ? product(map, old, true) : product(old, map));
}

// Key heads exchanged with their queries, queries of a group exchanged, every head turned. `rotate` false: what has no
// position is permuted only.
std::unique_ptr<Model> turned(const Model& model, const Spelling& spelling, bool rotate) {
  auto copy = model.clone();
  const std::int64_t repeats = spelling.queries / kKeys;
  std::vector<std::int64_t> keys = {1, 0}, queries;
  std::vector<Matrix> score_maps, query_maps, value_maps, context_maps;
  for (std::int64_t g = 0; g < kKeys; ++g) {
    const auto seed = static_cast<std::uint32_t>(20 + g);
    score_maps.push_back(turn(spelling, seed, rotate));
    value_maps.push_back(rotate ? procrustes(test::random_matrix(kHead, kHead, seed + 9))
                                : permutation_matrix({3, 1, 7, 5, 0, 2, 6, 4}));
    for (std::int64_t r = 0; r < repeats; ++r) {
      queries.push_back((1 - g) * repeats + (g == 0 ? repeats - 1 - r : r));
      query_maps.push_back(score_maps.back());
      context_maps.push_back(value_maps.back());
    }
  }
  const Matrix q = of_heads(queries, query_maps), k = of_heads(keys, score_maps), v = of_heads(keys, value_maps);
  multiply(*copy, "wq", kStream, q);
  multiply(*copy, "bq", 1, q);
  multiply(*copy, "wk", kStream, k);
  multiply(*copy, "bk", 1, k);
  multiply(*copy, "wv", kStream, v);
  multiply(*copy, "bv", 1, v);
  multiply(*copy, "wo", spelling.queries * kHead, of_heads(queries, context_maps), true);
  return copy;
}

class Rotary : public ::testing::TestWithParam<Spelling> {};

TEST_P(Rotary, PairsAndFreeElementsAreTold) {
  const auto model = model_of(GetParam());
  const AxisGroups groups = find_axis_groups(model->graph());
  ASSERT_EQ(groups.attentions.size(), 1U);
  const auto parts = RotaryProbe(*model).of(groups.attentions.front());
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(parts->pairs, GetParam().pairs);
  EXPECT_EQ(parts->free, GetParam().free);
}

TEST_P(Rotary, ATurnedCopyIsAlignedBack) {
  const auto anchor = model_of(GetParam());
  const auto copy = turned(*anchor, GetParam(), true);
  ASSERT_EQ(difference(*anchor, *copy, Precision::kFloat64, in_float(GetParam()) ? 1e-5 : 1e-12), "");
  ASSERT_GT(largest_difference(*copy, *anchor), 0.1);
  const Dataset data = *generate_dataset(*anchor, 3);
  for (const Dataset* from : {static_cast<const Dataset*>(nullptr), &data}) {
    const auto aligned = align_model(*copy->clone(), *anchor, {true, from, from == nullptr ? 30 : 0});
    ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
    EXPECT_LT(largest_difference(*aligned->model, *anchor), in_float(GetParam()) ? 2e-6 : 1e-9)
        << (from == nullptr ? "weights" : "activations");
  }
}

TEST_P(Rotary, ATurnedCopyIsTransportedBack) {
  const auto anchor = model_of(GetParam());
  const auto copy = turned(*anchor, GetParam(), false);
  const Dataset data = *generate_dataset(*anchor, 3);
  for (const Dataset* from : {static_cast<const Dataset*>(nullptr), &data}) {
    TransportOptions options;
    options.data = from;
    options.activations = from != nullptr;
    options.exact = true;
    const auto moved = transport_model(*copy->clone(), *anchor, options);
    ASSERT_TRUE(moved.has_value()) << moved.error().message;
    EXPECT_LT(largest_difference(*moved->model, *anchor), in_float(GetParam()) ? 2e-6 : 1e-9)
        << (from == nullptr ? "weights" : "activations");
  }
}

// Whatever another model looks like, nothing is done to this one that the rotation does not let pass.
TEST_P(Rotary, AGeneralRotationIsNotApplied) {
  const auto model = model_of(GetParam()), anchor = model->clone();
  const std::int64_t heads = GetParam().queries;
  std::vector<std::int64_t> order;
  std::vector<Matrix> maps;
  for (std::int64_t h = 0; h < heads; ++h) {
    order.push_back(h);
    maps.push_back(procrustes(test::random_matrix(kHead, kHead, static_cast<std::uint32_t>(70 + h / (heads / kKeys)))));
  }
  multiply(*anchor, "wq", kStream, of_heads(order, maps));
  multiply(*anchor, "bq", 1, of_heads(order, maps));
  multiply(*anchor, "wk", kStream, of_heads({0, 1}, {maps.front(), maps.back()}));
  multiply(*anchor, "bk", 1, of_heads({0, 1}, {maps.front(), maps.back()}));
  const auto aligned = align_model(*model->clone(), *anchor, {true, nullptr, 30});
  ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
  EXPECT_EQ(difference(*model, *aligned->model, Precision::kFloat64, in_float(GetParam()) ? 1e-5 : 1e-12), "");
  EXPECT_GT(largest_difference(*aligned->model, *anchor), 0.1);
}

INSTANTIATE_TEST_SUITE_P(Spellings, Rotary, ::testing::ValuesIn(spellings()),
                         [](const auto& spelling) { return spelling.param.name; });

// q, k and v in one Linear, as exporters for ONNX Runtime write them.
std::unique_ptr<Model> packed(const Model& model) {
  Matrix weights(0, kStream), bias(1, 0);  // turned, so that columns can be appended
  for (const std::string p : {"q", "k", "v"}) {
    const std::vector<double> w = *to_doubles(*parameter(model.graph().find("w" + p)));
    const std::vector<double> b = *to_doubles(*parameter(model.graph().find("b" + p)));
    const Matrix columns = transposed(Matrix(kStream, static_cast<std::int64_t>(b.size()), w));
    weights.data.insert(weights.data.end(), columns.data.begin(), columns.data.end());
    weights.rows += columns.rows;
    bias.data.insert(bias.data.end(), b.begin(), b.end());
    bias.cols += columns.rows;
  }
  auto result = test::model_from_text(
      "<ir_version: 11, opset_import: [\"\" : 23, \"com.microsoft\" : 1]> g (int64[2, 6] x) => (float[2, 6, 5] out) "
      "<float[9, 12] embed = {}, float[12, 64] w = {}, float[64] b = {}, float[32, 12] wo = {}, float[12, 5] head = "
      "{}, "
      "float[6, 4] cos = {}, float[6, 4] sin = {}, int32[2] last_key = {5, 5}, int32[1] length = {6}> { "
      "s0 = Gather(embed, x) m = MatMul(s0, w) a = Add(m, b) j, kept_keys, kept_values = "
      "com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2, do_rotary = 1, scale = 0.35> "
      "(a, , , , , last_key, length, cos, sin) o = MatMul(j, wo) s1 = Add(s0, o) out = MatMul(s1, head) }");
  for (const char* name : {"embed", "wo", "head", "cos", "sin"}) {
    replace_constant(*result->graph().find(name), *parameter(model.graph().find(name)));
  }
  test::set_weight(*result, "w", transposed(weights));
  test::set_weight(*result, "b", bias);
  return result;
}

TEST(RotaryGroupQueryAttention, PackedHeadsComeBack) {
  const Spelling spelling = grouped_spelling();
  const auto separate = model_of(spelling);
  const auto anchor = packed(*separate), copy = packed(*turned(*separate, spelling, true));
  ASSERT_EQ(difference(*separate, *anchor, Precision::kFloat64, 1e-5), "");
  ASSERT_EQ(difference(*anchor, *copy, Precision::kFloat64, 1e-5), "");
  ASSERT_GT(largest_difference(*copy, *anchor), 0.1);
  const Dataset data = *generate_dataset(*anchor, 3);
  for (const Dataset* from : {static_cast<const Dataset*>(nullptr), &data}) {
    const auto aligned = align_model(*copy->clone(), *anchor, {true, from, from == nullptr ? 30 : 0});
    ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
    EXPECT_LT(largest_difference(*aligned->model, *anchor), 2e-6);
  }
}

// What is kept of keys and values is seen outside: its basis stays.
TEST(RotaryGroupQueryAttention, HeadsOfACacheThatIsReadStay) {
  const Spelling spelling = grouped_spelling();
  const auto model = model_of(spelling), anchor = turned(*model, spelling, true);
  for (Model* each : {model.get(), anchor.get()}) each->graph().add_output(*each->graph().find("kept_keys"));
  const auto aligned = align_model(*model->clone(), *anchor, {true, nullptr, 30});
  ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
  EXPECT_EQ(difference(*model, *aligned->model, Precision::kFloat64, 1e-5), "");
}

void expect_all_held(const Model& model) {
  const AxisGroups groups = find_axis_groups(model.graph());
  ASSERT_EQ(groups.attentions.size(), 1U);
  const auto parts = RotaryProbe(model).of(groups.attentions.front());
  ASSERT_TRUE(parts.has_value());
  EXPECT_TRUE(parts->pairs.empty());
  EXPECT_TRUE(parts->free.empty());
}

// Tables that rotate nothing: halves with other angles, which no phase passes.
TEST(RotaryProbe, TablesOfAnotherFunctionHoldTheirElements) {
  const Spelling spelling = spellings().front();
  const auto model = model_of(spelling);
  test::set_weight(*model, "cos", test::random_matrix(kLength, kHead, 5));
  expect_all_held(*model);
}

// At a single position nothing turns: what the pairs are cannot be seen.
TEST(RotaryProbe, TablesThatNeverTurnHoldTheirElements) {
  const Spelling spelling = spellings().front();
  const auto model = model_of(spelling);
  test::set_weight(*model, "cos", Matrix(1, kLength * kHead, std::vector<double>(kLength * kHead, 1.0)));
  test::set_weight(*model, "sin", Matrix(1, kLength * kHead));
  expect_all_held(*model);
}

}  // namespace
}  // namespace onnxfold::rotary_test
