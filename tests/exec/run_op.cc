#include "tests/exec/run_op.h"

#include "ir/model.h"

namespace onnxfold::test {

Result<std::vector<Datum>> run_op(const std::string& op_type, std::vector<Datum> inputs,
                                  std::vector<Attribute> attributes, const OpOptions& options) {
  Model model;
  model.opset_imports = {{"", options.opset}};
  if (!options.domain.empty()) model.opset_imports[options.domain] = 1;
  NodeSpec spec;
  spec.op_type = op_type;
  spec.domain = options.domain;
  spec.name = "node_under_test";
  spec.attributes = std::move(attributes);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Type type = Type::none();
    if (inputs[i].is_array()) type = Type::tensor(inputs[i].array.dtype());
    spec.inputs.push_back(inputs[i].present() ? model.graph().add_input("x" + std::to_string(i), type) : nullptr);
  }
  for (std::size_t i = 0; i < options.outputs; ++i) spec.outputs.push_back({"y" + std::to_string(i), {}, false});
  const Node* node = model.graph().insert(std::move(spec));
  return run_node(*node, std::move(inputs), options.precision);
}

void expect_failure(const Result<std::vector<Datum>>& outputs, Code code, const std::string& part) {
  ASSERT_FALSE(outputs.has_value());
  EXPECT_EQ(outputs.error().code, code);
  EXPECT_THAT(outputs.error().message, testing::HasSubstr(part));
}

}  // namespace onnxfold::test
