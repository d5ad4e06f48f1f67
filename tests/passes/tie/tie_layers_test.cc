#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "analysis/compare/damage.h"
#include "analysis/structure/blocks.h"
#include "formats/onnx/onnx_file.h"
#include "tests/passes/depth/run_on_data.h"
#include "tests/passes/tie/stacks.h"
#include "tests/support/equivalence.h"

namespace onnxfold::tie_layers_test {
namespace {

using test::ffn_stack;
using test::model_from_text;

std::size_t unique_weights(const Graph& graph) {
  std::set<const Value*> found;
  for (const Linear& linear : find_linears(graph)) found.insert(linear.weight);
  return found.size();
}

TEST(TieLayers, StrictTyingKeepsOneWeightAGroup) {
  for (const int loops : {2, 3, 6}) {
    const auto model = model_from_text(ffn_stack(6));
    const auto changed = test::run_pass("tie-layers", *model, {{"loops", std::to_string(loops)}, {"rank", "0"}});
    ASSERT_TRUE(changed && *changed);
    EXPECT_EQ(unique_weights(model->graph()), static_cast<std::size_t>(12 / loops));
    EXPECT_EQ(find_blocks(model->graph()).blocks.size(), 6U);
  }
}

TEST(TieLayers, OneLoopAndTiedLayersAreNoChange) {
  test::expect_unchanged("tie-layers", ffn_stack(4), {{"loops", "1"}});
  test::expect_unchanged("tie-layers", ffn_stack(4, 2), {{"loops", "2"}});
}

TEST(TieLayers, LoopsMustDivideTheBlocks) {
  test::expect_error("tie-layers", ffn_stack(5), "5 layers cannot be 2 loops");
  const auto model = model_from_text(ffn_stack(5));
  const auto changed = test::run_pass("tie-layers", *model, {{"protect-first", "1"}, {"rank", "0"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(unique_weights(model->graph()), 6U);
}

TEST(TieLayers, BlocksThatDifferAreLeftAlone) {
  const auto model = model_from_text(ffn_stack(4, 1 << 20, "float", 2));
  std::vector<Remark> remarks;
  const auto changed = test::run_pass("tie-layers", *model, {}, &remarks);
  ASSERT_TRUE(changed && !*changed);
  ASSERT_FALSE(remarks.empty());
  EXPECT_EQ(remarks[0].node, "block 2");
  EXPECT_THAT(remarks[0].reason, testing::HasSubstr("12 hidden units"));
}

// Norms and biases stay per layer, so that corrections of full rank give the model back.
TEST(TieLayers, FullRankReturnsTheModel) {
  const std::string text = ffn_stack(6, 1 << 20, "double");
  for (const char* start : {"average", "stepwise", "lower"}) {
    for (const char* looping : {"cycle", "sequence", "cycle-rev"}) {
      for (const char* loops : {"2", "3"}) {
        const auto model = model_from_text(text);
        const auto changed = test::run_pass("tie-layers", *model,
                                            {{"start", start}, {"looping", looping}, {"loops", loops}, {"rank", "8"}});
        ASSERT_TRUE(changed && *changed);
        EXPECT_EQ(test::difference(*model_from_text(text), *model, Precision::kFloat64, 1e-12), "") << start << looping;
      }
    }
  }
  const auto closed = model_from_text(text);
  ASSERT_TRUE(test::run_pass("tie-layers", *closed, {{"factors", "closed"}, {"rank", "4"}}));
  EXPECT_EQ(test::difference(*model_from_text(text), *closed, Precision::kFloat64, 1e-12), "");
}

TEST(TieLayers, FullRankReturnsTheModelOnDataToo) {
  const Dataset data = test::normal_data(8, 6, 8);
  for (const char* loops : {"2", "3"}) {
    const auto model = model_from_text(ffn_stack(6));
    const auto original = model->clone();
    const auto changed = test::run_on_data("tie-layers", *model, data, {{"loops", loops}, {"rank", "8"}});
    ASSERT_TRUE(changed && *changed) << (changed ? "" : changed.error().message);
    EXPECT_LT(DamageMeter::create(*original, data)->measure(*model)->value, 2e-6);
  }
}

// Equal weights under different names.
TEST(TieLayers, PeriodicModelsTieForFree) {
  const auto model = model_from_text(ffn_stack(6));
  Graph& graph = model->graph();
  for (int i = 2; i < 6; ++i) {
    for (const std::string& name : {std::string("up"), std::string("down")}) {
      Value* old = graph.find(name + std::to_string(i));
      const Tensor& source = *graph.find(name + std::to_string(i % 2))->constant();
      graph.replace_all_uses(*old, *graph.add_initializer("copy", source));
    }
  }
  const auto original = model->clone();
  for (const char* start : {"average", "lower"}) {
    const auto tied = original->clone();
    const auto changed = test::run_pass("tie-layers", *tied, {{"loops", "3"}, {"start", start}});
    ASSERT_TRUE(changed && *changed);
    EXPECT_EQ(unique_weights(tied->graph()), 4U);
    EXPECT_EQ(tied->graph().node_count(), original->graph().node_count());  // nothing to correct
    EXPECT_EQ(test::difference(*original, *tied, Precision::kFloat64, 0), "");
  }
}

std::int64_t weight_bytes(const Graph& graph) {
  std::int64_t bytes = 0;
  for (const Value* value : graph.initializers()) bytes += value->initializer()->nbytes();
  return bytes;
}

// Bytes of a length or dimension as protobuf writes it: seven bits to a byte.
std::int64_t varint_bytes(std::int64_t number) {
  std::int64_t bytes = 1;
  for (; number >= 128; number >>= 7) ++bytes;
  return bytes;
}

std::int64_t field_bytes(std::int64_t content) { return 1 + varint_bytes(content) + content; }

// TensorProto: dims, type, name, raw data; and its place in the graph.
std::int64_t record_bytes(const Value& value) {
  const Tensor& tensor = *value.initializer();
  std::int64_t content = 2 + field_bytes(static_cast<std::int64_t>(value.name().size())) + field_bytes(tensor.nbytes());
  for (const std::int64_t dim : tensor.dims()) content += 1 + varint_bytes(dim);
  return field_bytes(content);
}

// K (in out + B r (in + out)) for each role, vectors aside, and a header that no rank changes: what tensors have beside
// their numbers are their names and the lengths of lengths, which are counted here.
TEST(TieLayers, TheSizeFormulaIsTheFileToTheByte) {
  for (const std::int64_t loops : {2, 3}) {
    std::int64_t header = 0;
    for (std::int64_t rank = 1; rank <= 8; ++rank) {
      const auto model = model_from_text(ffn_stack(6));
      const std::int64_t vectors = weight_bytes(model->graph()) - 6 * 2 * 8 * 16 * 4, unique = 6 / loops;
      ASSERT_TRUE(
          test::run_pass("tie-layers", *model, {{"loops", std::to_string(loops)}, {"rank", std::to_string(rank)}}));
      const std::int64_t formula = unique * 2 * (8 * 16 + loops * rank * (8 + 16)) * 4 + vectors;
      EXPECT_EQ(weight_bytes(model->graph()), formula);
      const auto file = static_cast<std::int64_t>(serialize_model(*model)->size());
      std::int64_t beside = varint_bytes(file);  // the length of the graph, which is nearly all of the file
      for (const Value* value : model->graph().initializers()) {
        beside += record_bytes(*value) - value->initializer()->nbytes();
      }
      if (rank == 1) header = file - formula - beside;
      EXPECT_EQ(file, formula + beside + header) << rank;
    }
    EXPECT_GT(header, 0);
  }
}

// Where no length gets another digit, the file grows by the formula alone.
TEST(TieLayers, FilesGrowByTheFormulaAlone) {
  std::vector<std::int64_t> headers;
  for (const std::int64_t rank : {4, 5, 6}) {
    const auto model = model_from_text(ffn_stack(6));
    ASSERT_TRUE(test::run_pass("tie-layers", *model, {{"rank", std::to_string(rank)}}));
    const auto file = static_cast<std::int64_t>(serialize_model(*model)->size());
    headers.push_back(file - 3 * 2 * (8 * 16 + 2 * rank * (8 + 16)) * 4);
  }
  EXPECT_THAT(headers, testing::Each(headers[0]));
}

TEST(TieLayers, MoreRankIsLessError) {
  const Dataset data = test::normal_data(16, 8, 8);
  const auto original = model_from_text(ffn_stack(6));
  const auto meter = DamageMeter::create(*original, data);
  double last = HUGE_VAL;
  for (const char* rank : {"0", "2", "4", "6"}) {
    const auto model = original->clone();
    ASSERT_TRUE(test::run_on_data("tie-layers", *model, data, {{"loops", "3"}, {"rank", rank}}));
    const double error = meter->measure(*model)->value;
    EXPECT_LT(error, last) << rank;
    last = error;
  }
}

TEST(TieLayers, DataHelps) {
  const Dataset data = test::normal_data(16, 8, 8);
  const auto original = model_from_text(ffn_stack(6));
  const auto meter = DamageMeter::create(*original, data);
  const auto with = original->clone(), without = original->clone();
  ASSERT_TRUE(test::run_on_data("tie-layers", *with, data, {{"rank", "2"}}));
  ASSERT_TRUE(test::run_pass("tie-layers", *without, {{"rank", "2"}}));
  EXPECT_LT(meter->measure(*with)->value, meter->measure(*without)->value);
}

TEST(TieLayers, RanksByRoleRatioAndTargetSize) {
  auto model = model_from_text(ffn_stack(4));
  ASSERT_TRUE(test::run_pass("tie-layers", *model, {{"ranks", "*=1;ffn.down=0"}}));
  EXPECT_EQ(model->graph().nodes_of("MatMul").size(), 8U + 8U);
  const std::int64_t all = weight_bytes(model_from_text(ffn_stack(4))->graph());
  for (const char* spread : {"error", "uniform"}) {
    model = model_from_text(ffn_stack(4));
    ASSERT_TRUE(test::run_pass("tie-layers", *model, {{"ratio", "0.8"}, {"spread", spread}}));
    EXPECT_LE(weight_bytes(model->graph()), all - 4 * 2 * 8 * 16 * 4 / 5);
    EXPECT_GT(model->graph().nodes_of("MatMul").size(), 8U);
    model = model_from_text(ffn_stack(4));
    const std::int64_t target = all - 1000;
    ASSERT_TRUE(test::run_pass("tie-layers", *model, {{"target-size", std::to_string(target)}, {"spread", spread}}));
    EXPECT_LE(weight_bytes(model->graph()), target);
    EXPECT_GT(weight_bytes(model->graph()), target - 1000);
  }
  test::expect_error("tie-layers", ffn_stack(4), "'ffn' is not ROLE=RANK", {{"ranks", "ffn"}});
}

TEST(TieLayers, RanksThatSaveNothingAreNamed) {
  const auto model = model_from_text(ffn_stack(4));
  std::vector<Remark> remarks;
  ASSERT_TRUE(test::run_pass("tie-layers", *model, {{"rank", "3"}}, &remarks));
  EXPECT_TRUE(std::any_of(remarks.begin(), remarks.end(), [](const Remark& remark) {
    return remark.reason.find("rank 3 of ffn.up saves nothing") != std::string::npos;
  }));
}

TEST(TieLayers, WhatNeedsDataOrTwoLoopsSaysSo) {
  test::expect_error("tie-layers", ffn_stack(4), "need data", {{"start", "weighted"}});
  test::expect_error("tie-layers", ffn_stack(4), "need data", {{"factors", "whitened"}});
  test::expect_error("tie-layers", ffn_stack(6), "closed is for two loops", {{"factors", "closed"}, {"loops", "3"}});
}

// Gemm with transB in the first block, MatMul in the second.
TEST(TieLayers, SpellingsMayDiffer) {
  const std::string text = R"(<ir_version: 8, opset_import: ["" : 17]> g (double[4, 8] x) => (double[4, 8] y)
    <double[8] g = {1, 1, 1, 1, 1, 1, 1, 1}, double[16, 8] u0 = {}, double[16] b0 = {}, double[8, 16] d0 = {},
     double[8, 16] u1 = {}, double[16] b1 = {}, double[16, 8] d1 = {}> {
    n0 = LayerNormalization(x, g)
    h0 = Gemm <transB = 1, alpha = 0.5> (n0, u0, b0)
    r0 = Relu(h0)
    f0 = Gemm <transB = 1> (r0, d0)
    s0 = Add(x, f0)
    n1 = LayerNormalization(s0, g)
    p1 = MatMul(n1, u1)
    h1 = Add(p1, b1)
    r1 = Relu(h1)
    f1 = MatMul(r1, d1)
    s1 = Add(s0, f1)
    y = LayerNormalization(s1, g) })";
  const auto model = model_from_text(text);
  const auto changed = test::run_pass("tie-layers", *model, {{"rank", "8"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(unique_weights(model->graph()), 2U + 8U);
  EXPECT_EQ(test::difference(*model_from_text(text), *model, Precision::kFloat64, 1e-12), "");
}

// Another Linear reads the weight of block 0, and the output of a Linear is an output of the graph.
TEST(TieLayers, SharedWeightsAndOutputsOfTheGraphStay) {
  const std::string text = R"(<ir_version: 8, opset_import: ["" : 17]>
    g (double[4, 8] x) => (double[4, 8] y, double[4, 16] p0, double[4, 8] f1)
    <double[8] g = {1, 1, 1, 1, 1, 1, 1, 1}, double[8, 16] u0 = {}, double[16, 8] d0 = {}, double[8, 16] u1 = {},
     double[16, 8] d1 = {}> {
    h0 = MatMul(x, u0) r0 = Relu(h0) f0 = MatMul(r0, d0) s0 = Add(x, f0)
    h1 = MatMul(s0, u1) r1 = Relu(h1) f1 = MatMul(r1, d1) s1 = Add(s0, f1)
    p0 = MatMul(x, u0)
    y = LayerNormalization(s1, g) })";
  const auto model = model_from_text(text);
  const auto changed = test::run_pass("tie-layers", *model, {{"rank", "8"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_NE(model->graph().find("u0"), nullptr);
  EXPECT_EQ(model->graph().find("u1"), nullptr);
  EXPECT_EQ(test::difference(*model_from_text(text), *model, Precision::kFloat64, 1e-12), "");
}

// What layers share in floats they share in 4 bits.
TEST(TieLayers, QuantizersStoreASharedWeightOnce) {
  std::vector<std::int64_t> bytes;
  for (const bool tied : {false, true}) {
    const auto model = model_from_text(ffn_stack(4));
    if (tied) {
      ASSERT_TRUE(test::run_pass("tie-layers", *model, {{"rank", "0"}}));
    }
    const auto changed = test::run_pass("rtn", *model, {{"block", "16"}, {"min-elements", "0"}});
    ASSERT_TRUE(changed && *changed);
    const auto unpacked = static_cast<std::int64_t>(8 + 4 * 16) * 4;  // gain and biases
    bytes.push_back(weight_bytes(model->graph()) - unpacked);
  }
  EXPECT_LE(bytes[1], bytes[0] / 2 + 64);
}

// What a layer starts as may be a weight of another group.
TEST(TieLayers, StartsOfOtherGroups) {
  const std::string text = ffn_stack(12, 1 << 20, "double");
  for (const char* start : {"stepwise", "lower", "average"}) {
    for (const char* looping : {"cycle", "sequence"}) {
      const auto model = model_from_text(text);
      const auto changed =
          test::run_pass("tie-layers", *model, {{"start", start}, {"looping", looping}, {"rank", "8"}});
      ASSERT_TRUE(changed && *changed);
      EXPECT_EQ(test::difference(*model_from_text(text), *model, Precision::kFloat64, 1e-12), "") << start << looping;
    }
  }
}

// Ranks that differ from unique layer to unique layer, and layers that are their own start and have no correction.
TEST(TieLayers, PaddedCorrectionsRollBlockByBlock) {
  for (const char* looping : {"sequence", "cycle"}) {
    const std::string text = ffn_stack(4, 1 << 20, "double");
    const test::OptionMap options = {{"looping", looping}, {"start", "lower"}, {"rank", "2"}, {"ranks", "ffn.down=1"}};
    const auto plain = model_from_text(text), padded = model_from_text(text);
    ASSERT_TRUE(test::run_pass("tie-layers", *plain, options));
    test::OptionMap with = options;
    with["pad"] = "true";
    ASSERT_TRUE(test::run_pass("tie-layers", *padded, with));
    EXPECT_EQ(test::difference(*plain, *padded, Precision::kFloat64, 1e-12), "");
    EXPECT_LT(plain->graph().nodes_of("MatMul").size(), 8U + 2U * 8U);  // some layers are their own start
    EXPECT_EQ(padded->graph().nodes_of("MatMul").size(), 8U + 2U * 8U);
    const auto rolled = padded->clone();
    const auto changed = test::run_pass("roll-layers", *rolled, {{"blocks-in-body", "1"}});
    ASSERT_TRUE(changed && *changed) << looping;
    EXPECT_EQ(rolled->graph().nodes_of("MatMul").size(), 0U);
    EXPECT_EQ(test::difference(*padded, *rolled, Precision::kFloat64, 0), "");
  }
}

// 4 bits over shared weights and over corrections, then one body: as before rolling.
TEST(TieLayers, QuantizedCorrectionsRoll) {
  const auto tied = model_from_text(ffn_stack(4));
  ASSERT_TRUE(test::run_pass("tie-layers", *tied, {{"rank", "2"}}));
  const auto quantized = test::run_pass("rtn", *tied, {{"block", "16"}, {"min-elements", "0"}});
  ASSERT_TRUE(quantized && *quantized);
  const std::vector<Node*> nodes = tied->graph().nodes();
  const auto packed =
      std::count_if(nodes.begin(), nodes.end(), [](const Node* node) { return node->op_type() == "MatMulNBits"; });
  EXPECT_EQ(packed, 8 + 8);  // the shared weights, and of the corrections what is wide enough to gain
  const auto rolled = tied->clone();
  const auto changed = test::run_pass("roll-layers", *rolled);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(rolled->graph().nodes_of("Loop").size() + rolled->graph().nodes_of("Scan").size(), 1U);
  EXPECT_EQ(test::difference(*tied, *rolled, Precision::kFloat32, 0), "");
}

// What is fitted when the file is written is what is fitted at once.
TEST(TieLayers, LargeModelsAreFittedAsTheyAreWritten) {
  const std::vector<test::OptionMap> ways = {
      {{"rank", "0"}},
      {{"rank", "3"}},
      {{"rank", "2"}, {"loops", "3"}, {"factors", "alternate"}},
      {{"rank", "2"}, {"factors", "closed"}},
      {{"rank", "8"}, {"factors", "closed"}},
      {{"start", "lower"}, {"rank", "2"}, {"ranks", "ffn.down=1"}, {"pad", "true"}, {"looping", "sequence"}},
      {{"start", "stepwise"}, {"loops", "3"}, {"looping", "cycle-rev"}},
      {{"ratio", "0.8"}},
      {{"ratio", "0.8"}, {"spread", "uniform"}},
  };
  for (const char* type : {"float", "double"}) {
    for (test::OptionMap options : ways) {
      const auto at_once = model_from_text(ffn_stack(6, 1 << 20, type)), later = at_once->clone();
      ASSERT_TRUE(test::run_pass("tie-layers", *at_once, options));
      options["at-once"] = "0";
      const auto changed = test::run_pass("tie-layers", *later, options);
      ASSERT_TRUE(changed && *changed);
      EXPECT_EQ(*serialize_model(*at_once), *serialize_model(*later));
    }
  }
}

TEST(TieLayers, FitsWhenWrittenSayWhatTheyKnow) {
  const auto model = model_from_text(ffn_stack(4));
  std::vector<Remark> remarks, later;
  ASSERT_TRUE(test::run_pass("tie-layers", *model->clone(), {{"rank", "0"}}, &remarks));
  ASSERT_TRUE(test::run_pass("tie-layers", *model->clone(), {{"rank", "0"}, {"at-once", "0"}}, &later));
  ASSERT_EQ(remarks.size(), later.size());
  for (std::size_t i = 0; i < remarks.size(); ++i) {
    EXPECT_EQ(remarks[i].reason, later[i].reason);
    EXPECT_EQ(remarks[i].result_bytes, later[i].result_bytes);
  }
}

// Gains and biases in the weights first: nothing is left that layers would keep.
TEST(TieLayers, NormsAndBiasesMayBeFoldedFirst) {
  std::string text = ffn_stack(4, 1 << 20, "double");
  const std::string ones = "g = {1, 1, 1, 1, 1, 1, 1, 1}";
  text.replace(text.find(ones), ones.size(), "g = {}");  // not all ones
  const auto original = model_from_text(text);
  for (const bool inside : {false, true}) {
    const auto tied = original->clone();
    if (!inside) {
      ASSERT_TRUE(test::run_pass("fold-norm-affine", *tied));
    }
    const auto changed = test::run_pass("tie-layers", *tied, {{"rank", "8"}, {"norms", inside ? "fold" : "keep"}});
    ASSERT_TRUE(changed && *changed);
    EXPECT_EQ(test::difference(*original, *tied, Precision::kFloat64, 1e-12), "");
    for (const Node* node : tied->graph().nodes_of("LayerNormalization")) {
      if (node->output() == tied->graph().outputs()[0]) continue;
      const std::vector<double> gains = *to_doubles(*node->input(1)->constant());
      EXPECT_EQ(gains, std::vector<double>(gains.size(), 1));
    }
  }
}

}  // namespace
}  // namespace onnxfold::tie_layers_test
