#include "ir/dump.h"

#include <gtest/gtest.h>

namespace onnxfold::dump_test {
namespace {

std::unique_ptr<Model> small_model(float weight) {
  auto model = std::make_unique<Model>();
  model->opset_imports[""] = 21;
  const Type type = Type::tensor(DType::kFloat32, std::vector<std::int64_t>{1});
  Value* x = model->graph().add_input("x", type);
  Value* w = model->graph().add_initializer("w", Tensor::of<float>({1}, {weight}));
  NodeSpec spec{"Add", {x, w}, {{"y", type}}, {}, "", ""};
  model->graph().add_output(*model->graph().insert(std::move(spec))->output());
  return model;
}

TEST(Dump, IsTheSameForTheSameModel) {
  EXPECT_EQ(dump(*small_model(1)), dump(*small_model(1)));
  EXPECT_NE(dump(*small_model(1)), dump(*small_model(2)));
  EXPECT_EQ(dump(*small_model(1), TensorText::kShape), dump(*small_model(2), TensorText::kShape));
}

TEST(Dump, FingerprintSeesEveryKindOfEdit) {
  const auto model = small_model(1);
  Graph& graph = model->graph();
  std::vector<std::uint64_t> seen = {fingerprint(*model)};
  const auto expect_new = [&] {
    const std::uint64_t now = fingerprint(*model);
    for (const std::uint64_t old : seen) EXPECT_NE(now, old);
    seen.push_back(now);
  };
  graph.nodes()[0]->set_attribute("alpha", 1.0F);
  expect_new();
  graph.set_input(*graph.nodes()[0], 1, graph.find("x"));
  expect_new();
  graph.erase(*graph.find("w"));
  expect_new();
  model->opset_imports[""] = 22;
  expect_new();
}

TEST(Dump, FingerprintOfACloneIsEqual) {
  const auto model = small_model(1);
  EXPECT_EQ(fingerprint(*model), fingerprint(*model->clone()));
}

}  // namespace
}  // namespace onnxfold::dump_test
