#include "ir/instantiate.h"

#include <gtest/gtest.h>

#include "ir/verify.h"

namespace onnxfold::instantiate_test {
namespace {

// f<slope = 0.5>(a) => LeakyRelu<alpha: = @slope>(a), and a caller of it.
struct Call {
  Model model;
  Node* node = nullptr;

  explicit Call(bool gives_slope, std::size_t inputs = 1) {
    auto function = std::make_unique<Function>();
    function->domain = "custom";
    function->name = "f";
    function->defaults.emplace_back("slope", 0.5F);
    function->opset_imports[""] = 16;
    function->body = std::make_unique<Graph>();
    function->adopt();
    Graph& body = *function->body;
    NodeSpec spec{"LeakyRelu", {body.add_input("a", Type::none())}, {{"b", Type::none()}}, {}, "", ""};
    spec.attributes.emplace_back("alpha", AttributeReference{"slope", 1});
    spec.attributes.emplace_back("beta", AttributeReference{"nobody_gives_it", 1});
    body.add_output(*body.insert(std::move(spec))->output());
    model.functions.push_back(std::move(function));
    Value* x = model.graph().add_input("x", Type::tensor(DType::kFloat32));
    NodeSpec call{"f", std::vector<Value*>(inputs, x), {{"y", Type::none()}}, {}, "custom", ""};
    if (gives_slope) call.attributes.emplace_back("slope", 2.0F);
    node = model.graph().insert(std::move(call));
  }
};

TEST(Instantiate, UsesTheCallsAttributeThenTheDefault) {
  const Call with(true);
  const auto body = *instantiate(*find_function(with.model, *with.node), *with.node);
  EXPECT_EQ(body->nodes()[0]->attr_float("alpha", 0), 2.0F);
  EXPECT_EQ(body->opset(), 16);
  const Call without(false);
  const auto other = *instantiate(*find_function(without.model, *without.node), *without.node);
  EXPECT_EQ(other->nodes()[0]->attr_float("alpha", 0), 0.5F);
}

TEST(Instantiate, DropsReferencesThatNobodyGives) {
  const Call call(true);
  const auto body = *instantiate(*find_function(call.model, *call.node), *call.node);
  EXPECT_EQ(body->nodes()[0]->attribute("beta"), nullptr);
}

TEST(Instantiate, RefusesTooManyInputs) {
  const Call call(true, 2);
  EXPECT_EQ(instantiate(*find_function(call.model, *call.node), *call.node).error().code, Code::kCorrupt);
}

TEST(FindFunction, LooksAtDomainNameAndOverload) {
  Call call(true);
  EXPECT_NE(find_function(call.model, *call.node), nullptr);
  call.node->overload = "other";
  EXPECT_EQ(find_function(call.model, *call.node), nullptr);
}

}  // namespace
}  // namespace onnxfold::instantiate_test
