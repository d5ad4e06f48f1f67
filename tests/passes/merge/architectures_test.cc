// Decoders with rotary embedding, grouped queries and gates, post-norm encoders, convolution nets: written in a random
// basis of their own they compute the same, and come back to the original weight by weight.
#include <gtest/gtest.h>

#include "analysis/structure/correspondence.h"
#include "formats/onnx/schema.h"
#include "passes/merge/alignment.h"
#include "passes/merge/transport_flow.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::architectures_test {
namespace {

using test::largest_difference;

struct Network {
  std::string name, text;
};

// Four query heads of four on two key heads, rotated halves, a gated layer of 20.
std::string decoder() {
  std::string nodes = "s0 = Gather(embed, x) ";
  std::string weights =
      "float[9, 12] embed = {}, float[12] g0 = {}, float[12, 16] wq = {}, float[12, 8] wk = {}, float[12, 8] wv = {}, "
      "float[16, 12] wo = {}, float[12, 20] gate = {}, float[12, 20] up = {}, float[20, 12] down = {}, float[12] g1 = "
      "{}, "
      "float[12, 5] head = {}, float[1, 1, 6, 4] cos = {}, float[1, 1, 6, 4] sin = {}, float half = {0.5}, "
      "int64[4] four = {0, 6, 4, 4}, int64[4] two = {0, 6, 2, 4}, int64[5] twice = {1, 1, 2, 1, 1}, int64[1] axis2 = "
      "{2}, "
      "int64[4] spread = {0, 4, 6, 4}, int64[3] join = {0, 6, 16}, int64[1] at0 = {0}, int64[1] at2 = {2}, "
      "int64[1] at9 = {9}, int64[1] last = {3}";
  nodes += "n0 = RMSNormalization <axis = -1> (s0, g0) qm = MatMul(n0, wq) km = MatMul(n0, wk) vm = MatMul(n0, wv) ";
  nodes +=
      "qr = Reshape(qm, four) qt = Transpose <perm = [0, 2, 1, 3]> (qr) kr = Reshape(km, two) "
      "kt = Transpose <perm = [0, 2, 1, 3]> (kr) vr = Reshape(vm, two) vt = Transpose <perm = [0, 2, 1, 3]> (vr) ";
  for (const std::string p : {"q", "k"}) {
    nodes += p + "1 = Slice(" + p + "t, at0, at2, last) " + p + "2 = Slice(" + p + "t, at2, at9, last) " + p +
             "n = Neg(" + p + "2) " + p + "h = Concat <axis = -1> (" + p + "n, " + p + "1) " + p + "c = Mul(" + p +
             "t, cos) " + p + "s = Mul(" + p + "h, sin) " + p + "e = Add(" + p + "c, " + p + "s) ";
  }
  nodes +=
      "ku = Unsqueeze(ke, axis2) kx = Expand(ku, twice) kk = Reshape(kx, spread) vu = Unsqueeze(vt, axis2) "
      "vx = Expand(vu, twice) vv = Reshape(vx, spread) kf = Transpose <perm = [0, 1, 3, 2]> (kk) c = MatMul(qe, kf) "
      "d = Mul(c, half) p = Softmax <axis = -1> (d) z = MatMul(p, vv) y = Transpose <perm = [0, 2, 1, 3]> (z) "
      "j = Reshape(y, join) o = MatMul(j, wo) s1 = Add(s0, o) n1 = RMSNormalization <axis = -1> (s1, g1) "
      "gm = MatMul(n1, gate) gs = Sigmoid(gm) ga = Mul(gm, gs) um = MatMul(n1, up) hm = Mul(ga, um) "
      "dm = MatMul(hm, down) s2 = Add(s1, dm) out = MatMul(s2, head)";
  return "<ir_version: 11, opset_import: [\"\" : 23]> g (int64[B, 6] x) => (float[B, 6, 5] out) <" + weights + "> { " +
         nodes + " }";
}

// Norms behind the sums; three heads of four from one packed Linear.
std::string encoder() {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (int64[B, 6] x) => (float[B, 6, 5] out) <float[9, 12] embed = "
         "{}, "
         "float[6, 12] pos = {}, float[12] g0 = {}, float[12] b0 = {}, float[12, 36] wqkv = {}, float[36] bqkv = {}, "
         "float[12, 12] wo = {}, float[12] bo = {}, float[12] g1 = {}, float[12] b1 = {}, float[12, 20] up = {}, "
         "float[20] bu = {}, float[20, 12] down = {}, float[12] bd = {}, float[12] g2 = {}, float[12] b2 = {}, "
         "float[12, 5] head = {}, float half = {0.5}, int64[4] heads = {0, 6, 3, 4}, int64[3] join = {0, 6, 12}, "
         "int64[3] parts = {12, 12, 12}> { e = Gather(embed, x) ep = Add(e, pos) s0 = LayerNormalization(ep, g0, b0) "
         "m = MatMul(s0, wqkv) mb = Add(m, bqkv) q0, k0, v0 = Split <axis = -1> (mb, parts) qr = Reshape(q0, heads) "
         "q = Transpose <perm = [0, 2, 1, 3]> (qr) kr = Reshape(k0, heads) k = Transpose <perm = [0, 2, 3, 1]> (kr) "
         "vr = Reshape(v0, heads) v = Transpose <perm = [0, 2, 1, 3]> (vr) c = MatMul(q, k) d = Mul(c, half) "
         "p = Softmax <axis = -1> (d) z = MatMul(p, v) y = Transpose <perm = [0, 2, 1, 3]> (z) j = Reshape(y, join) "
         "om = MatMul(j, wo) o = Add(om, bo) h0 = Add(s0, o) h1 = LayerNormalization(h0, g1, b1) um = MatMul(h1, up) "
         "u = Add(um, bu) r = Relu(u) dm = MatMul(r, down) db = Add(dm, bd) f = Add(h1, db) "
         "s1 = LayerNormalization(f, g2, b2) out = MatMul(s1, head) }";
}

std::string convolutions() {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[B, 2, 6, 6] x) => (float[B, 5] out) <float[8, 2, 3, 3] "
         "w0 = "
         "{}, float[8] s0 = {}, float[8] b0 = {}, float[8] m0 = {}, float[8] v0 = {1,1,1,1,1,1,1,2}, float[10, 8, 3, "
         "3] w1 "
         "= {}, float[8, 10, 1, 1] w2 = {}, float[8, 5] head = {}, int64[1] at = {1}> { c0 = Conv <pads = [1,1,1,1]> "
         "(x, "
         "w0) n0 = BatchNormalization(c0, s0, b0, m0, v0) a0 = Relu(n0) c1 = Conv <pads = [1,1,1,1]> (a0, w1) a1 = "
         "Relu(c1) c2 = Conv(a1, w2) r = Add(a0, c2) p = GlobalAveragePool(r) f = Flatten(p) out = MatMul(f, head) }";
}

// Norms without gains as one operator, a bias inside of the activation.
std::string runtime_operators() {
  return "<ir_version: 11, opset_import: [\"\" : 23, \"com.microsoft\" : 1]> g (int64[B, 6] x) => (float[B, 6, 5] out) "
         "<float[9, 12] embed = {}, float[12] g0 = {1,1,1,1,1,1,1,1,1,1,1,1}, float[12, 20] up = {}, float[20] bu = "
         "{}, "
         "float[20, 12] down = {}, float[12] g1 = {2,2,2,2,2,2,2,2,2,2,2,2}, float[12, 20] up1 = {}, float[20] bu1 = "
         "{}, float[20, 12] down1 = {}, float[12, 5] head = {}> { s0 = Gather(embed, x) n0 = RMSNormalization <axis = "
         "-1> (s0, g0) um = MatMul(n0, up) a = com.microsoft.FastGelu(um, bu) dm = MatMul(a, down) s1 = Add(s0, dm) "
         "n1 = RMSNormalization <axis = -1> (s1, g1) um1 = MatMul(n1, up1) a1 = com.microsoft.BiasGelu(um1, bu1) dm1 = "
         "MatMul(a1, down1) s2 = Add(s1, dm1) out = MatMul(s2, head) }";
}

// Token mixing: Linears over positions, where channels are rows; sums inside of norms. Six positions.
std::string mixer() {
  const std::string skip = "com.microsoft.SkipLayerNormalization<epsilon = 0.00001>";
  return "<ir_version: 8, opset_import: [\"\" : 17, \"com.microsoft\" : 1]> g (float[B, 6, 3] x) => (float[B, 5] out) "
         "<float[3, 12] embed = {}, float[12] g0 = {}, float[12] b0 = {}, float[6, 8] mix0 = {}, float[8] c0 = {}, "
         "float[8, 6] mix1 = {}, float[6] c1 = {}, float[12] g1 = {}, float[12] b1 = {}, float[12, 20] up = {}, "
         "float[20] bu = {}, float[20, 12] down = {}, float[12] bd = {}, float[12] g2 = {}, float[12] b2 = {}, "
         "float[12, 5] head = {}> { s0 = MatMul(x, embed) n0 = LayerNormalization(s0, g0, b0) "
         "t0 = Transpose <perm = [0, 2, 1]> (n0) m0 = MatMul(t0, mix0) a0 = com.microsoft.BiasGelu(m0, c0) "
         "m1 = MatMul(a0, mix1) m2 = Add(m1, c1) t1 = Transpose <perm = [0, 2, 1]> (m2) "
         "n1, e0, e1, s1 = " +
         skip +
         "(s0, t1, g1, b1) um = MatMul(n1, up) u = com.microsoft.BiasGelu(um, bu) dm = MatMul(u, down) "
         "n2 = " +
         skip + "(dm, s1, g2, b2, bd) p = ReduceMean <axes = [1], keepdims = 0> (n2) out = MatMul(p, head) }";
}

// Convolutions channel by channel, and a last one whose channels are outputs of the model.
std::string pyramid() {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[B, 2, 6, 6] x) => (float[B, 5, 6, 6] out) "
         "<float[8, 2, 3, 3] w0 = {}, float[8] b0 = {}, float[8, 1, 3, 3] each = {}, float[8] be = {}, "
         "float[10, 8, 1, 1] w1 = {}, float[10] b1 = {}, float[5, 10, 3, 3] last = {}, float[5] bl = {}> { "
         "c0 = Conv <pads = [1,1,1,1]> (x, w0, b0) a0 = Relu(c0) c1 = Conv <group = 8, pads = [1,1,1,1]> (a0, each, "
         "be) "
         "a1 = Relu(c1) c2 = Conv(a1, w1, b1) a2 = Relu(c2) out = Conv <pads = [1,1,1,1]> (a2, last, bl) }";
}

std::unique_ptr<Model> model_of(const Network& network) {
  auto model = test::model_from_text(network.text);
  EXPECT_TRUE(infer_shapes(*model).has_value());
  return model;
}

// A model of the same graph with other weights, to take a basis from.
std::unique_ptr<Model> stranger(const Model& model) {
  auto other = model.clone();
  std::uint32_t seed = 40;
  for (const Value* value : model.graph().initializers()) {
    const Tensor& tensor = *value->initializer();
    if (!is_float(tensor.dtype()) || tensor.size() < 2 || value->name() == "v0") continue;
    test::set_weight(*other, value->name(), test::random_matrix(1, tensor.size(), ++seed));
  }
  return other;
}

std::unique_ptr<Model> in_random_basis(const Model& model, bool rotate) {
  const auto copy = model.clone();
  const auto aligned = align_model(*copy, *stranger(model), {rotate, nullptr, 30});
  EXPECT_TRUE(aligned.has_value()) << aligned.error().message;
  return aligned->model->clone();
}

class Architectures : public ::testing::TestWithParam<Network> {};

TEST_P(Architectures, ADisguisedCopyIsAlignedBack) {
  const auto model = model_of(GetParam());
  for (const bool rotate : {false, true}) {
    const auto copy = in_random_basis(*model, rotate);
    EXPECT_EQ(test::difference(*model, *copy, Precision::kFloat64, rotate ? 1e-5 : 1e-12), "");
    EXPECT_GT(largest_difference(*copy, *model), 0.1) << "no disguise";
    const auto back = align_model(*copy, *model, {rotate, nullptr, 30});
    ASSERT_TRUE(back.has_value()) << back.error().message;
    EXPECT_LT(largest_difference(*back->model, *model), rotate ? 2e-5 : 1e-30);
  }
}

TEST_P(Architectures, APermutedCopyIsTransportedBack) {
  const auto model = model_of(GetParam());
  const auto copy = in_random_basis(*model, false);
  const Dataset data = *generate_dataset(*model, 3);
  for (const Dataset* features : {static_cast<const Dataset*>(nullptr), &data}) {
    TransportOptions options;
    options.data = features;
    options.activations = features != nullptr;
    options.exact = true;
    const auto moved = transport_model(*copy->clone(), *model, options);
    ASSERT_TRUE(moved.has_value()) << moved.error().message;
    EXPECT_EQ(largest_difference(*moved->model, *model), 0) << (features == nullptr ? "weights" : "activations");
  }
}

TEST_P(Architectures, ItselfStaysAsItIs) {
  const auto model = model_of(GetParam());
  const auto same = model->clone();
  const auto aligned = align_model(*same, *model, {true, nullptr, 30});
  ASSERT_TRUE(aligned.has_value()) << aligned.error().message;
  EXPECT_EQ(largest_difference(*aligned->model, *model), 0);
}

// ONNX Runtime packs the weights of one of two attentions that share them: heads of the other must stay.
TEST(AlignedWithShared, HeadsStayWhereAFusedOperatorReadsTheSameWeights) {
  const auto model = model_of({"", R"(<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
      g (float[B, 5, 4] x) => (float[B, 5, 6] y) <float[4, 6] e = {}, float[6, 6] wq = {}, float[6, 6] wk = {},
      float[6, 6] wv = {}, float[6, 18] w = {}, float[18] b = {}, float[6, 6] o = {}, int64[4] heads = {0, 0, 2, 3},
      int64[3] flat = {0, 0, 6}, float scale = {0.57735027}> { s = MatMul(x, e)
      q1 = MatMul(s, wq) q2 = Reshape(q1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q2)
      k1 = MatMul(s, wk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2)
      v1 = MatMul(s, wv) v2 = Reshape(v1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2)
      t = MatMul(q, k) u = Mul(t, scale) p = Softmax<axis = -1>(u) r = MatMul(p, v)
      d = Transpose<perm = [0, 2, 1, 3]>(r) c = Reshape(d, flat) h = MatMul(c, o) s1 = Add(s, h)
      c1 = com.microsoft.Attention<num_heads = 2>(s1, w, b) h1 = MatMul(c1, o) y = Add(s1, h1) })"});
  const auto copy = in_random_basis(*model, false);
  EXPECT_EQ(test::difference(*model, *copy, Precision::kFloat64, 1e-12), "");
}

INSTANTIATE_TEST_SUITE_P(All, Architectures,
                         ::testing::Values(Network{"Decoder", decoder()}, Network{"Encoder", encoder()},
                                           Network{"Convolutions", convolutions()},
                                           Network{"RuntimeOperators", runtime_operators()}, Network{"Mixer", mixer()},
                                           Network{"Pyramid", pyramid()}),
                         [](const auto& network) { return network.param.name; });

}  // namespace
}  // namespace onnxfold::architectures_test
