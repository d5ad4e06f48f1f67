// Small models of equal blocks, as text.
#pragma once

#include <string>

namespace onnxfold::test {

// Pre-norm feed-forward blocks over a stream of 8 channels, hidden width 16, with biases. `same`: every block has the
// weights of block i % same.
inline std::string ffn_stack(int count, int same = 1 << 20, const std::string& type = "float", int odd = -1) {
  std::string constants = type + "[8] g = {1, 1, 1, 1, 1, 1, 1, 1}";
  std::string nodes, stream = "x";
  for (int i = 0; i < count; ++i) {
    const std::string n = std::to_string(i), m = std::to_string(i % same);
    const std::string hidden = i == odd ? "12" : "16";
    constants +=
        ", " + type + "[8, " + hidden + "] up" + n + " = {}, " + type + "[" + hidden + ", 8] down" + n + " = {}";
    constants += ", " + type + "[" + hidden + "] bias" + n + " = {}";
    (void)m;
    nodes += "n" + n + " = LayerNormalization(" + stream + ", g) u" + n + " = MatMul(n" + n + ", up" + m + ") b" + n +
             " = Add(u" + n + ", bias" + n + ") h" + n + " = Relu(b" + n + ") f" + n + " = MatMul(h" + n + ", down" +
             m + ") s" + n + " = Add(" + stream + ", f" + n + ") ";
    stream = "s" + n;
  }
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (" + type + "[N, T, 8] x) => (" + type + "[N, T, 8] y) <" +
         constants + "> { " + nodes + "y = LayerNormalization(" + stream + ", g) }";
}

}  // namespace onnxfold::test
