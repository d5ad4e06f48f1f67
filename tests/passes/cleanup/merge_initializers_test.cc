#include <gtest/gtest.h>

#include "tests/support/rewrite_test.h"

namespace onnxfold::test::merge_initializers_test {
namespace {

std::string net(const std::string& nodes, const std::string& initializers) {
  return "<ir_version: 8, opset_import: [\"\": 17]> g (float[N, 4] x) => (float[A, B] y) <" + initializers + "> { " +
         nodes + " }";
}

TEST(MergeInitializers, Merges) {
  expect_rewrite("merge-initializers",
                 net("a = Mul(x, c) y = Mul(a, d)", "float[4] c = {1, 2, 3, 4}, float[4] d = {1, 2, 3, 4}"),
                 net("a = Mul(x, c) y = Mul(a, c)", "float[4] c = {1, 2, 3, 4}"));
}
TEST(MergeInitializers, MergesLargeOnes) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w = {}> {
      c = Constant<value = float[2] {1, 2}>()
      a = MatMul(x, w) y = Relu(a) })");
  Graph& graph = model->graph();
  Value* w = graph.find("w");
  const Tensor copy = Tensor::deferred(DType::kFloat32, {64, 64}, [tensor = *w->initializer()]() -> Result<Buffer> {
    OF_ASSIGN(const Bytes bytes, tensor.bytes());
    return Buffer(bytes.span().begin(), bytes.span().end());
  });
  const Bytes loaded = *copy.bytes();
  Buffer bytes(loaded.span().begin(), loaded.span().end());
  Value* equal = graph.add_initializer("equal", Tensor::owned(DType::kFloat32, {64, 64}, bytes));
  bytes[8000] ^= std::byte{1};  // beyond what the probe sees
  Value* other = graph.add_initializer("other", Tensor::owned(DType::kFloat32, {64, 64}, bytes));
  Node& relu = *graph.nodes_of("Relu").front();
  Node* second =
      graph.insert({"MatMul", {relu.input(0), equal}, {{"b", Type::tensor(DType::kFloat32)}}, {}, "", ""}, &relu);
  Node* third =
      graph.insert({"MatMul", {second->output(), other}, {{"c2", Type::tensor(DType::kFloat32)}}, {}, "", ""}, &relu);
  graph.set_input(relu, 0, third->output());
  const auto changed = run_pass("merge-initializers", *model);
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(graph.nodes_of("MatMul")[1]->input(1), w);
  EXPECT_EQ(graph.nodes_of("MatMul")[2]->input(1), other);
}
TEST(MergeInitializers, KeepsDifferentOnes) {
  expect_unchanged("merge-initializers",
                   net("a = Mul(x, c) y = Mul(a, d)", "float[4] c = {1, 2, 3, 4}, float[4] d = {1, 2, 3, 5}"));
  expect_unchanged("merge-initializers",
                   net("a = Mul(x, c) y = Mul(a, d)", "float[4] c = {1, 2, 3, 4}, float[1, 4] d = {1, 2, 3, 4}"));
  expect_unchanged("merge-initializers", net("a = Mul(x, c) b = Cast<to = 6>(a) d = Mul(b, e) y = Cast<to = 1>(d)",
                                             "float[1] c = {0}, int32[1] e = {0}"));
}
TEST(MergeInitializers, KeepsOverridableOnes) {
  const auto model = model_from_text(R"(<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x, float[4] c) => (float[N, 4] y) <float[4] d = {1, 2, 3, 4}> { a = Mul(x, c) y = Mul(a, d) })");
  Graph& graph = model->graph();
  graph.set_input_default(*graph.inputs()[1], *graph.find("d")->initializer());
  const auto changed = run_pass("merge-initializers", *model);
  EXPECT_TRUE(changed && !*changed);
}

}  // namespace
}  // namespace onnxfold::test::merge_initializers_test
