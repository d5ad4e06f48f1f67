#include <gtest/gtest.h>

#include "formats/onnx/onnx_file.h"
#include "formats/onnx/schema.h"

namespace onnxfold::shape_inference_test {
namespace {

std::unique_ptr<Model> model_of(const std::string& text) {
  auto model = parse_model_text(
      R"(<ir_version: 10, opset_import: ["" : 21, "com.example" : 1, "com.microsoft" : 1]> g )" + text);
  if (!model) {
    ADD_FAILURE() << model.error().message;
    return std::make_unique<Model>();
  }
  return std::move(*model);
}

std::string type_of(Model& model, const char* name) { return to_string(model.graph().find(name)->type()); }
std::string tensor(Dims dims) { return to_string(Type::tensor(DType::kFloat32, dims)); }

TEST(InferShapes, FollowsShapeArithmetic) {
  auto model = model_of(R"((float[2,3,4] x) => (float[N,M] y) <int64[1] minus = {-1}, int64 zero = {0}> {
    s = Shape(x)  d = Gather(s, zero)  axes = Constant<value_ints = [0]>()  u = Unsqueeze(d, axes)
    t = Concat<axis = 0>(u, minus)  r = Reshape(x, t)  y = Relu(r) })");
  ASSERT_TRUE(infer_shapes(*model));
  EXPECT_EQ(type_of(*model, "r"), tensor({2, 12}));
}

TEST(InferShapes, GoesOnBehindOperatorsOfTheRuntime) {
  auto model = model_of(R"((float[B,S,8] x, float[B,2,P,4] k, float[B,2,P,4] v, int32[B] n, int32 t,
    float[8] gain, float[16,8] w, uint8[6,1,8] codes, float[6] scales, float[8,24] packed) => (float[B,S,24] y) {
    normal, mean, inverse, sum = com.microsoft.SkipSimplifiedLayerNormalization(x, x, gain)
    q, keys, values = com.microsoft.GroupQueryAttention<num_heads = 2, kv_num_heads = 2>(normal, sum, sum, k, v, n, t)
    small = com.microsoft.MatMulNBits<K = 8, N = 6, bits = 4, block_size = 16>(q, codes, scales)
    both = com.microsoft.FusedMatMul<transB = 1>(q, w)
    a = com.microsoft.Attention<num_heads = 2>(q, packed)  g = com.microsoft.FastGelu(a)
    r = Relu(keys)  y = MatMul(g, packed) })");
  ASSERT_TRUE(infer_shapes(*model));
  EXPECT_EQ(type_of(*model, "sum"), "float[B,S,8]");
  EXPECT_EQ(type_of(*model, "q"), "float[B,S,8]");
  EXPECT_EQ(type_of(*model, "small"), "float[B,S,6]");
  EXPECT_EQ(type_of(*model, "both"), "float[B,S,16]");
  EXPECT_EQ(type_of(*model, "g"), "float[B,S,8]");
  EXPECT_EQ(model->graph().find("r")->dtype(), DType::kFloat32);
}

TEST(InferShapes, UnknownOperatorsOfTheRuntimeStayUnknown) {
  auto model = model_of("(float[2,3] x) => (float[2,3] y) { m = com.microsoft.NoSuch(x)  y = Relu(m) }");
  ASSERT_TRUE(infer_shapes(*model));
  EXPECT_EQ(model->graph().find("m")->dtype(), DType::kUndefined);
}

TEST(InferShapes, AnInnerClashCostsOneValue) {
  auto model = model_of(R"((float[2,3] x) => (float[2,3] y) <float[5] a, int64[2,3] c> {
    a = Relu(x)  b = Relu(a)  c = Relu(b)  d = Relu(c)  y = Relu(d) })");
  EXPECT_FALSE(infer_shapes(*model->clone(), /*strict=*/true));
  ASSERT_TRUE(infer_shapes(*model));
  for (const char* name : {"a", "b", "c", "d"}) EXPECT_EQ(type_of(*model, name), tensor({2, 3})) << name;
  EXPECT_TRUE(infer_shapes(*model, /*strict=*/true));
}

TEST(InferShapes, AClashingOutputStaysAsDeclared) {
  auto model = model_of("(float[2,3] x) => (float[7] y) { a = Relu(x)  y = Relu(a) }");
  ASSERT_TRUE(infer_shapes(*model));
  EXPECT_EQ(type_of(*model, "a"), tensor({2, 3}));
  EXPECT_EQ(type_of(*model, "y"), tensor({7}));
}

TEST(InferShapes, ADefaultThatDoesNotFitItsInputCostsNothingElse) {
  auto model = model_of("(float[2,3] x, float[7] w) => (float[N] y) { a = Relu(x)  y = Relu(w) }");
  Value* input = model->graph().find("w");
  model->graph().set_input_default(*input, Tensor::owned(DType::kFloat32, {3}, Buffer(12)));
  EXPECT_FALSE(infer_shapes(*model->clone(), /*strict=*/true));
  ASSERT_TRUE(infer_shapes(*model));
  EXPECT_EQ(type_of(*model, "a"), tensor({2, 3}));
  EXPECT_EQ(type_of(*model, "w"), tensor({7}));
}

TEST(InferShapes, DeclarationsOfCustomOperatorsAreBelieved) {
  auto model = model_of(R"((float[2,3] x) => (float[N,M] y) <float[5] a, float[4,4] u> {
    a = Relu(x)  u = com.example.Odd(a)  v = Relu(u)  y = Relu(v) })");
  ASSERT_TRUE(infer_shapes(*model));
  EXPECT_EQ(type_of(*model, "u"), tensor({4, 4}));
  EXPECT_EQ(type_of(*model, "v"), tensor({4, 4}));
}

TEST(InferShapes, SubgraphsToo) {
  auto model = model_of(R"((bool c, float[2,3] x) => (float[N,M] y) { y = If(c) <
    then_branch = t () => (float[N,M] p) { i = Relu(x)  p = Abs(i) },
    else_branch = e () => (float[N,M] q) { q = Abs(x) }> })");
  ASSERT_TRUE(infer_shapes(*model));
  const Graph* inner = model->graph().nodes_of("If").front()->attr_graph("then_branch");
  EXPECT_EQ(to_string(inner->find("i")->type()), tensor({2, 3}));
}

TEST(InferShapes, OnlyWhatTheFileDescribedIsWritten) {
  auto model = model_of(R"((float[2,3] x) => (float[2,3] y) <float[2,3] a> { a = Relu(x)  b = Abs(a)  y = Relu(b) })");
  const std::string folder = testing::TempDir() + "/described.onnx";
  SaveOptions options;
  options.described = described_values(*model);
  options.overwrite = true;
  ASSERT_TRUE(infer_shapes(*model));
  ASSERT_TRUE(save_model(*model, folder, options));
  const auto written = load_model(folder);
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(type_of(**written, "a"), tensor({2, 3}));
  EXPECT_TRUE((*written)->graph().find("b")->type() == Type::none());
}

}  // namespace
}  // namespace onnxfold::shape_inference_test
