// One attention in ONNX text, piece by piece: width 8, 4 heads of 2, every projection with a bias.
#pragma once

#include <string>

namespace onnxfold::test {

struct AttentionText {
  std::string q = "q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, heads) q = Transpose<perm = [0, 2, 1, 3]>(q2) ";
  std::string k = "k0 = MatMul(x, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2) ";
  std::string v = "v0 = MatMul(x, wv) v1 = Add(bv, v0) v2 = Reshape(v1, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2) ";
  std::string scores = "s0 = MatMul(q, k) s = Div(s0, two) ";
  std::string mask;  // makes m of s
  std::string probabilities = "p = Softmax<axis = -1>(s) ";
  std::string context = "c = MatMul(p, v) c1 = Transpose<perm = [0, 2, 1, 3]>(c) c2 = Reshape(c1, joined) ";
  std::string out = "o = MatMul(c2, wo) y = Add(o, bo) ";
  std::string inputs = "double[B, S, 8] x";
  std::string outputs = "double[B1, S1, F1] y";
  std::string initializers;  // ", type name = value"

  std::string text() const {
    return "<ir_version: 8, opset_import: [\"\": 17, \"com.microsoft\": 1]> g (" + inputs + ") => (" + outputs +
           ") <double[8, 8] wq = {}, double[8, 8] wk = {}, double[8, 8] wv = {}, double[8, 8] wo = {}, double[8] bq = "
           "{}, double[8] bk = {}, double[8] bv = {}, double[8] bo = {}, double two = {2}, int64[4] heads = {0, -1, 4, "
           "2}, int64[3] joined = {0, -1, 8}" +
           initializers + "> { " + q + k + v + scores + mask + probabilities + context + out + " }";
  }
};

// Variants that several passes are tested on.

// Another inner value is an output of the model too: "type[dims] name".
inline AttentionText giving_away(const std::string& output) {
  AttentionText a;
  a.outputs += ", " + output;
  return a;
}

// An input z is added to the scores.
inline AttentionText with_added_mask() {
  AttentionText a;
  a.inputs += ", double[B, 1, 1, S] z";
  a.mask = "m = Add(s, z) ";
  a.probabilities = "p = Softmax<axis = -1>(m) ";
  return a;
}

// Keys and values of earlier tokens are inputs, in front of the new ones.
inline AttentionText with_cache() {
  AttentionText a;
  a.k =
      "k0 = MatMul(x, wk) k1 = Add(k0, bk) k2 = Reshape(k1, heads) k3 = Transpose<perm = [0, 2, 1, 3]>(k2) "
      "k4 = Concat<axis = 2>(past, k3) k = Transpose<perm = [0, 1, 3, 2]>(k4) ";
  a.v =
      "v0 = MatMul(x, wv) v1 = Add(v0, bv) v2 = Reshape(v1, heads) v3 = Transpose<perm = [0, 2, 1, 3]>(v2) "
      "v = Concat<axis = 2>(pastv, v3) ";
  a.inputs += ", double[B, 4, P, 2] past, double[B, 4, P, 2] pastv";
  return a;
}

// One product makes queries, keys and values.
inline AttentionText with_packed_projections() {
  AttentionText a;
  a.q =
      "l = MatMul(x, wqkv) b = Add(l, bqkv) q0, k0, v0 = Split<axis = 2>(b) q2 = Reshape(q0, heads) q = "
      "Transpose<perm = [0, 2, 1, 3]>(q2) ";
  a.k = "k2 = Reshape(k0, heads) k = Transpose<perm = [0, 2, 3, 1]>(k2) ";
  a.v = "v2 = Reshape(v0, heads) v = Transpose<perm = [0, 2, 1, 3]>(v2) ";
  a.initializers = ", double[8, 24] wqkv = {}, double[24] bqkv = {}";
  return a;
}

// The operator of com.microsoft on projections that these texts make.
inline AttentionText with_fused_operator(const std::string& q, const std::string& k, const std::string& v) {
  AttentionText a;
  a.q = q;
  a.k = k;
  a.v = v;
  a.scores = a.probabilities = "";
  a.context = "c2 = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v) ";
  return a;
}

}  // namespace onnxfold::test
