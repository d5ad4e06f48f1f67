#include <gtest/gtest.h>

#include <cmath>

#include "ir/verify.h"
#include "passes/quantize/decoded_weight.h"
#include "tests/support/calibrated_run.h"

namespace onnxfold::dequantize_test {
namespace {

using test::first_output;
using test::OptionMap;
using test::relative_distance;
using test::run_passes;

Dataset data_for(const Model& model) { return *generate_dataset(model, 7); }

std::string text_of(const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (int64[5, 7] i, float[5, 7, 48] x) => "
         "(float[5, 7, 40] y) <float[30, 48] t = {}, float[48, 48] u = {}, float[40, 48] v = {}, float[48] c = {}, "
         "float[40] d = {}, float[30] e = {}> { " +
         nodes + " }";
}

constexpr const char* kNodes =
    "n = Gather(t, i) h = MatMul(n, u) b = Add(h, c) z = Add(b, x) w = Transpose<perm=[1,0]>(v) y = MatMul(z, w)";

// Quantized and taken back, the model has no quantized operator and gives what the quantized one gives.
void expect_back(const std::string& text, const OptionMap& options, const std::string& pass = "rtn") {
  const auto source = test::model_from_text(text);
  const Dataset data = data_for(*source);
  const auto quantized = run_passes({{pass, options, {}}}, text, nullptr);
  ASSERT_TRUE(quantized.did()) << text;
  const auto back = run_passes({{pass, options, {}}, {"dequantize", {}, {}}}, text, nullptr);
  ASSERT_TRUE(back.changed) << back.changed.error().message;
  EXPECT_TRUE(*back.changed);
  EXPECT_TRUE(verify(*back.model));
  for (const Node* node : back.model->graph().nodes()) {
    EXPECT_TRUE(node->domain().empty()) << node->op_type();
    EXPECT_FALSE(node->is("DequantizeLinear"));
  }
  EXPECT_LT(relative_distance(first_output(*back.model, data), first_output(*quantized.model, data)), 2e-6);
}

TEST(Dequantize, EveryFormOfBlocks) {
  for (const char* form : {"matmulnbits", "dequantizelinear"}) {
    for (const char* bits : {"2", "3", "4", "8"}) {
      if (std::string(form) == "dequantizelinear" && std::string(bits) == "2") continue;  // opset 25: below
      for (const char* symmetric : {"true", "false"}) {
        expect_back(text_of(kNodes),
                    {{"form", form}, {"bits", bits}, {"symmetric", symmetric}, {"block", "32"}, {"min-elements", "1"}});
      }
    }
    for (const char* scales : {"float16", "int8", "power-of-two"}) {
      expect_back(text_of(kNodes), {{"form", form}, {"scales", scales}, {"block", "16"}, {"min-elements", "1"}});
    }
    expect_back(text_of(kNodes), {{"form", form}, {"block", "channel"}, {"min-elements", "1"}});
  }
}

TEST(Dequantize, ProductsWithABiasInside) {
  const std::string text =
      "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (float[9, 48] x) => (float[9, 40] y) "
      "<float[40, 48] v = {}, float[40] d = {}> { y = Gemm<transB=1>(x, v, d) }";
  expect_back(text, {});
  const auto back = run_passes({{"rtn", {}, {}}, {"dequantize", {}, {}}}, text, nullptr);
  EXPECT_EQ(back.model->graph().nodes_of("Add").size(), 1U);
}

TEST(Dequantize, FloatZeroPoints) {
  expect_back(text_of(kNodes), {{"zero-points", "float"}, {"min-elements", "1"}}, "hqq");
}

TEST(Dequantize, ATiedTableIsOneFloatTable) {
  const std::string text =
      "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (int64[9] i) => (float[9, 40] y) "
      "<float[40, 64] t = {}> { e = Gather(t, i) w = Transpose<perm=[1,0]>(t) y = MatMul(e, w) }";
  for (const char* form : {"matmulnbits", "dequantizelinear"}) {
    for (const char* block : {"32", "channel"}) {
      const OptionMap options = {{"form", form}, {"block", block}, {"symmetric", "false"}};
      expect_back(text, options);
      const auto back = run_passes({{"rtn", options, {}}, {"dequantize", {}, {}}}, text, nullptr);
      EXPECT_EQ(back.model->graph().initializers().size(), 1U) << form;
    }
  }
  // And it can be quantized anew, shared again.
  const auto again = run_passes({{"rtn", {}, {}}, {"dequantize", {}, {}}, {"rtn", {{"bits", "8"}}, {}}}, text, nullptr);
  EXPECT_TRUE(again.did());
  EXPECT_EQ(again.model->graph().nodes_of("GatherBlockQuantized", "com.microsoft").size(), 1U);
}

// The product's last block goes on behind the row; the table takes the beginnings of the rows.
TEST(Dequantize, ATiedTableOfRowsThatFillNoBlocks) {
  for (const char* width : {"24", "40", "72"}) {
    const std::string w = width;
    const std::string text =
        "<ir_version: 10, opset_import: [\"\" : 21, \"com.microsoft\" : 1]> g (int64[9] i) => (float[9, 40] y) "
        "<float[40, " +
        w + "] t = {}> { e = Gather(t, i) w = Transpose<perm=[1,0]>(t) y = MatMul(e, w) }";
    for (const char* bits : {"2", "4", "8"}) {
      for (const char* symmetric : {"true", "false"}) {
        const OptionMap options = {{"bits", bits}, {"symmetric", symmetric}, {"min-elements", "0"}};
        expect_back(text, options);
        const auto run = run_passes({{"rtn", options, {}}}, text, nullptr);
        const Graph& graph = run.model->graph();
        const Node& head = *graph.nodes_of("MatMulNBits", "com.microsoft").at(0);
        const Node& table = *graph.nodes_of("GatherBlockQuantized", "com.microsoft").at(0);
        EXPECT_EQ(packed_codes(table), head.input(1)) << width;
        EXPECT_EQ(table.input(2), head.input(2));
      }
    }
  }
}

TEST(Dequantize, OtherWeights) {
  const std::string text =
      "<ir_version: 10, opset_import: [\"\" : 21]> g (float[1, 16, 8, 8] x) => (float[1, 24, 8, 8] y) <float[24, 16, "
      "3, "
      "3] w = {}> { y = Conv<pads=[1,1,1,1]>(x, w) }";
  expect_back(text, {{"others", "8"}});
  expect_back(text, {{"others", "bits"}, {"block", "16"}});
}

TEST(Dequantize, IntegerProductsAndConvolutions) {
  const std::string text =
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[9, 48] x) => (float[9, 40] y) "
      "<float[48, 40] v = {}, float[40] d = {}> { y = Gemm(x, v, d) }";
  const auto source = test::model_from_text(text);
  const Dataset data = data_for(*source);
  const auto original = first_output(*source, data);
  for (const char* pass : {"dynamic-int8", "qdq-int8"}) {
    const auto back = run_passes({{pass, {}, {}}, {"dequantize", {}, {}}}, text, &data);
    ASSERT_TRUE(back.did());
    for (const Node* node : back.model->graph().nodes()) {
      EXPECT_TRUE(node->is("MatMul") || node->is("Gemm") || node->is("Add")) << node->op_type();
    }
    EXPECT_LT(relative_distance(first_output(*back.model, data), original), 0.01);
  }
  const auto kept = run_passes({{"qdq-int8", {}, {}}, {"dequantize", {{"activations", "false"}}, {}}}, text, &data);
  EXPECT_EQ(kept.model->graph().nodes_of("QuantizeLinear").size(), 1U);
}

// As ONNX Runtime's quantize_dynamic and quantize_static (operator format) write them.
TEST(Dequantize, OperatorsOfOthers) {
  const std::string head =
      "<ir_version: 8, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (float[1, 4, 6, 6] x) => (float[1, 8, 6, 6] "
      "y) <int8[8, 4, 3, 3] w = {}, float s = {0.02}, int8 z = {0}, float xs = {0.03}, uint8 xz = {120}, float[8] ws = "
      "{0.01,0.02,0.03,0.01,0.02,0.03,0.01,0.02}, int8[8] wz = {0,0,0,0,0,0,0,0}, float ys = {0.05}, uint8 yz = "
      "{128}, int32[8] b = {1,2,3,4,5,6,7,8}> { ";
  for (const char* nodes :
       {"q, qs, qz = DynamicQuantizeLinear(x) a = ConvInteger<pads=[1,1,1,1]>(q, w, qz, z) c = Cast<to=1>(a) m = "
        "Mul(qs, s) y = Mul(c, m) }",
        "q = QuantizeLinear(x, xs, xz) a = QLinearConv<pads=[1,1,1,1]>(q, xs, xz, w, ws, wz, ys, yz, b) y = "
        "DequantizeLinear(a, ys, yz) }"}) {
    const auto source = test::model_from_text(head + nodes);
    const Dataset data = data_for(*source);
    const auto back = run_passes({{"dequantize", {}, {}}}, head + nodes, nullptr);
    ASSERT_TRUE(back.did()) << nodes;
    ASSERT_EQ(back.model->graph().node_count(), 1U) << nodes;
    EXPECT_TRUE(back.model->graph().nodes()[0]->is("Conv"));
    EXPECT_LT(relative_distance(first_output(*back.model, data), first_output(*source, data)), 0.05) << nodes;
  }
}

TEST(Dequantize, NearMisses) {
  // A scale behind that is computed; codes that pass another operator; a weight that is computed.
  for (const char* nodes :
       {"q = QuantizeLinear(x, s, z) m = ReduceMax<keepdims=0>(x) y = DequantizeLinear(q, m, z) }",
        "q = QuantizeLinear(x, s, z) r = Reshape(q, shape) d = DequantizeLinear(r, s, z) y = Reshape(d, shape) }",
        "q, qs, qz = DynamicQuantizeLinear(x) a = MatMulInteger(q, q, qz, qz) c = Cast<to=1>(a) y = Mul(c, qs) }"}) {
    const auto run = run_passes({{"dequantize", {}, {}}},
                                std::string("<ir_version: 8, opset_import: [\"\" : 17]> g (float[4, 4] x) => (float[4, "
                                            "4] y) <float s = {0.02}, uint8 z = {120}, int64[2] "
                                            "shape = {4, 4}> { ") +
                                    nodes,
                                nullptr);
    ASSERT_TRUE(run.changed) << run.changed.error().message;
    EXPECT_FALSE(*run.changed) << nodes;
  }
  EXPECT_FALSE(run_passes({{"dequantize", {}, {}}}, text_of(kNodes), nullptr).did());
}

TEST(Dequantize, ThenOtherBits) {
  const auto run = run_passes({{"rtn", {{"bits", "8"}}, {}}, {"dequantize", {}, {}}, {"rtn", {{"bits", "3"}}, {}}},
                              text_of(kNodes), nullptr);
  EXPECT_TRUE(run.did());
  EXPECT_EQ(run.model->graph().nodes_of("MatMulNBits", "com.microsoft").size(), 2U);
}

// x * 0.5 - 1 that codes took in: written in steps of 0.1 from 20 on, read in steps of 0.05 from 40 on.
TEST(Dequantize, APairOfTwoGridsIsAFactorAndAnAddend) {
  const std::string text =
      "<ir_version: 10, opset_import: [\"\" : 18]> g (float[3] x) => (float[3] y) <float s = {0.1}, uint8 z = {20}, "
      "float "
      "t = {0.05}, uint8 w = {40}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, w) }";
  const auto run = run_passes({{"dequantize", {}, {}}}, text, nullptr);
  ASSERT_TRUE(run.did());
  const Dataset data = test::dataset_of("x", {3}, {-1.23, 0, 4.56});
  const std::vector<double> y = first_output(*run.model, data);
  for (const auto& [at, wanted] : {std::pair{0, -1.615}, {1, -1.0}, {2, 1.28}}) {
    EXPECT_NEAR(y[static_cast<std::size_t>(at)], wanted, 1e-6);
  }
  EXPECT_TRUE(run.model->graph().nodes_of("QuantizeLinear").empty());
}

std::string gathered(const std::string& nodes) {
  return "<ir_version: 10, opset_import: [\"\" : 21]> g (int64[5] i) => (float[5, 3] y) <int8[4, 3] t = {1, -2, 3, 4, "
         "5, "
         "6, 7, 8, -9, 10, 11, 12}, float[4, 1] s = {0.5, 0.25, 2, 1}, float[4, 3] u = {}> { " +
         nodes + " }";
}

Dataset places() {
  Dataset data;
  Feeds feeds;
  feeds["i"] = Datum(*to_array(Tensor::of<std::int64_t>({5}, {0, 3, 1, 2, 2}), Precision::kFloat32));
  data.batches.push_back(std::move(feeds));
  data.batch_sizes.push_back(5);
  return data;
}

TEST(Dequantize, TablesOfCodesThatAreDecodedBehindTheGather) {
  for (const char* nodes : {"c = Gather(t, i) n = Cast<to = 1>(c) k = Gather(s, i) y = Mul(n, k)",
                            "k = Gather(s, i) c = Gather<axis = -2>(t, i) n = Cast<to = 1>(c) y = Mul(k, n)"}) {
    const auto run = run_passes({{"dequantize", {}, {}}}, gathered(nodes), nullptr);
    ASSERT_TRUE(run.did()) << nodes;
    EXPECT_EQ(run.model->graph().node_count(), 1U);
    EXPECT_EQ(first_output(*run.model, places()), first_output(*test::model_from_text(gathered(nodes)), places()));
  }
}

TEST(Dequantize, NearMissesOfGatheredCodes) {
  for (const char* nodes : {
           // Scales of other rows; codes that are floats; somebody else reads the codes; scales that are a table.
           "j = Neg(i) a = Abs(j) c = Gather(t, i) n = Cast<to = 1>(c) k = Gather(s, a) y = Mul(n, k)",
           "n = Gather(u, i) k = Gather(s, i) y = Mul(n, k)",
           "c = Gather(t, i) n = Cast<to = 1>(c) k = Gather(s, i) m = Mul(n, k) y = Add(m, n)",
           "c = Gather(t, i) n = Cast<to = 1>(c) k = Gather(u, i) y = Mul(n, k)",
       }) {
    EXPECT_FALSE(run_passes({{"dequantize", {}, {}}}, gathered(nodes), nullptr).did()) << nodes;
  }
}

}  // namespace
}  // namespace onnxfold::dequantize_test
