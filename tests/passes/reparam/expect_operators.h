// Checks for rewrites whose new weights are too long to write down: which operators are left, and that the executor
// gives the same numbers in double.
#pragma once

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "passes/registry.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {

inline std::string operators_of(const Graph& graph) {
  std::string text;
  for (const Node* node : graph.nodes()) text += (text.empty() ? "" : " ") + node->op_type();
  return text;
}

inline std::string reasons(const std::vector<Remark>& remarks) {
  std::string text;
  for (const Remark& remark : remarks) text += remark.node + ": " + remark.reason + "\n";
  return text;
}

// Runs `pass` on `text`, whose floats are doubles, and expects `operators` in order. A second run changes nothing.
inline std::unique_ptr<Model> expect_operators(const std::string& pass, const std::string& text,
                                               const std::string& operators, const OptionMap& options = {}) {
  const auto original = model_from_text(text);
  auto rewritten = original->clone();
  std::vector<Remark> remarks;
  const Result<bool> changed = run_pass(pass, *rewritten, options, &remarks);
  EXPECT_TRUE(changed.has_value());
  if (!changed) return rewritten;
  EXPECT_TRUE(*changed) << pass << " did not apply to\n" << text << "\n" << reasons(remarks);
  EXPECT_EQ(operators_of(rewritten->graph()), operators);
  std::set<std::string> names;  // ONNX Runtime refuses two nodes of one name
  for (const Node* node : rewritten->graph().nodes()) {
    EXPECT_TRUE(node->name.empty() || names.insert(node->name).second) << "two nodes called " << node->name;
  }
  for (const std::uint64_t seed : {0, 1, 2}) {
    EXPECT_EQ(difference(*original, *rewritten, Precision::kFloat64, 1e-12, seed), "") << pass << " on\n" << text;
  }
  const Result<bool> again = run_pass(pass, *rewritten, options);
  EXPECT_TRUE(again && !*again) << "a second run of " << pass << " changed the model again";
  return rewritten;
}

}  // namespace onnxfold::test
