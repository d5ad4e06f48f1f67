// Rolled and unrolled again: what every test of the two passes asks.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <set>
#include <string>
#include <vector>

#include "tests/support/canonical_text.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {

// Pieces of ONNX text made a model.
inline std::string model(const std::string& inputs, const std::string& outputs, const std::string& weights,
                         const std::string& nodes, int opset = 17) {
  return fmt::format("<ir_version: 8, opset_import: [\"\": {}]> g ({}) => ({}) <{}> {{ {} }}", opset, inputs, outputs,
                     weights, nodes);
}

// A residual stack; layer l reads the weights `up<u>`, `down<u>` with u = which[l].
inline std::string stack(const std::vector<int>& which, const std::string& activation = "Relu", int opset = 17) {
  std::string weights, nodes;
  std::set<int> made;
  for (const int u : which) {
    if (made.insert(u).second)
      weights += fmt::format("{}float[4,6] up{} = {{}}, float[6,4] down{} = {{}}", weights.empty() ? "" : ", ", u, u);
  }
  std::string stream = "x";
  for (std::size_t l = 0; l < which.size(); ++l) {
    nodes += fmt::format("h{} = MatMul({}, up{}) a{} = {}(h{}) d{} = MatMul(a{}, down{}) s{} = Add({}, d{}) ", l,
                         stream, which[l], l, activation, l, l, l, which[l], l, stream, l);
    stream = fmt::format("s{}", l);
  }
  return model("float[N,4] x", "float[N,4] y", weights, nodes + "y = Tanh(" + stream + ")", opset);
}

// What pass roll-layers says of `text`, joined.
inline std::string said_of(const std::string& text) {
  std::vector<Remark> remarks;
  EXPECT_TRUE(run_pass("roll-layers", *model_from_text(text), {}, &remarks));
  std::string said;
  for (const Remark& remark : remarks) said += remark.reason + "; ";
  return said;
}

inline const Node* loop_of(const Graph& graph) {
  for (const Node* node : graph.nodes()) {
    if (node->is("Loop") || node->is("Scan")) return node;
  }
  return nullptr;
}

// Bytes of all initializers of the main graph.
inline std::int64_t weight_bytes(const Model& model) {
  std::int64_t total = 0;
  for (const Value* value : model.graph().initializers()) total += value->initializer()->nbytes();
  return total;
}

// Constants as a file would hold them: those that are still to be made are compared with nothing.
inline void hold_constants(Graph& graph) {
  for (Value* value : graph.initializers()) {
    const Tensor old = *value->initializer();
    const auto bytes = old.bytes();
    ASSERT_TRUE(bytes);
    Tensor held = Tensor::owned(old.dtype(), old.dims(), Buffer(bytes->data(), bytes->data() + bytes->size()));
    graph.replace_all_uses(*value, *graph.add_initializer(value->name(), std::move(held)));
    graph.erase(*value);
  }
}

// Rolls `text`, expects the same bits in both precisions, the text again after unrolling, and the same loop when that
// is rolled. The rolled model.
inline std::unique_ptr<Model> roll_and_back(const std::string& text, const OptionMap& options = {},
                                            bool may_stay = false) {
  const auto original = model_from_text(text);
  EXPECT_TRUE(run_pass("remove-dead-nodes", *original));
  auto rolled = original->clone();
  const auto changed = run_pass("roll-layers", *rolled, options);
  EXPECT_TRUE(changed) << (changed ? "" : changed.error().message);
  if (may_stay && changed && !*changed) return rolled;
  EXPECT_TRUE(changed && *changed) << "nothing was rolled in\n" << text;
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat64}) {
    EXPECT_EQ(difference(*original, *rolled, precision, 0), "") << text;
  }
  const auto back = rolled->clone();
  const auto unrolled = run_pass("unroll-layers", *back);
  EXPECT_TRUE(unrolled && *unrolled) << (unrolled ? "" : unrolled.error().message);
  EXPECT_EQ(canonical_text(*back), canonical_text(*original));
  hold_constants(back->graph());
  EXPECT_TRUE(run_pass("roll-layers", *back, options));
  EXPECT_EQ(canonical_text(*back), canonical_text(*rolled)) << "rolled again";
  return rolled;
}

}  // namespace onnxfold::test
