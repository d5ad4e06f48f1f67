// What is read is written again: nothing lost, nothing invented.
#include <gtest/gtest.h>
#include <onnx/defs/parser.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/onnx/onnx_file.h"
#include "ir/verify.h"
#include "tests/formats/proto_compare.h"
#include "tests/support/paths.h"

namespace onnxfold::round_trip_test {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

onnx::ModelProto from_text(const std::string& text) {
  onnx::ModelProto proto;
  onnx::OnnxParser parser(text.c_str());
  const auto status = parser.Parse(proto);
  EXPECT_TRUE(status.IsOK()) << status.ErrorMessage();
  return proto;
}

// Empty, or what is different after import and export.
std::string after_round_trip(const onnx::ModelProto& proto) {
  const auto model = parse_model(bytes_of(proto.SerializeAsString()));
  if (!model) return model.error().message;
  if (const auto verified = verify(**model); !verified) return verified.error().message;
  const auto bytes = serialize_model(**model);
  if (!bytes) return bytes.error().message;
  onnx::ModelProto back;
  if (!back.ParseFromArray(bytes->data(), static_cast<int>(bytes->size()))) return "does not parse";
  return test::proto_difference(proto, back);
}

constexpr char kPlain[] = R"(<ir_version: 10, opset_import: ["" : 21]>
  g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1, 2, 3}> { [n] h = Add(x, w)  y = Relu(h) })";

TEST(RoundTrip, Plain) { EXPECT_EQ(after_round_trip(from_text(kPlain)), ""); }

TEST(RoundTrip, SubgraphsThatCaptureOuterValues) {
  EXPECT_EQ(after_round_trip(from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (bool c, float[2] x) => (float[2] y) {
      h = Relu(x)
      y = If(c) <then_branch = t () => (float[2] a) { a = Neg(h) },
                 else_branch = e () => (float[2] a) { b = If(c) <then_branch = t2 () => (float[2] d) { d = Add(h, x) },
                   else_branch = e2 () => (float[2] d) { d = Abs(h) }> a = Identity(b) }>
    })")),
            "");
}

TEST(RoundTrip, FunctionsWithAttributeReferences) {
  EXPECT_EQ(after_round_trip(from_text(R"(<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
    g (float[2] x) => (float[2] y) { y = local.f <alpha = 0.5> (x) }
    <domain: "local", opset_import: ["" : 17]> f <alpha> (x) => (y) { y = LeakyRelu <alpha : float = @alpha> (x) })")),
            "");
}

TEST(RoundTrip, EveryElementType) {
  for (int type = onnx::TensorProto::FLOAT; type <= onnx::TensorProto::INT2; ++type) {
    if (type == onnx::TensorProto::STRING) continue;
    onnx::ModelProto proto = from_text(kPlain);
    proto.set_ir_version(13);
    auto& tensor = *proto.mutable_graph()->add_initializer();
    tensor.set_name("extra");
    tensor.set_data_type(type);
    tensor.add_dims(3);
    const auto bytes = packed_bytes(static_cast<DType>(type), 3);
    tensor.set_raw_data(std::string(static_cast<std::size_t>(*bytes), '\1'));
    EXPECT_EQ(after_round_trip(proto), "") << "element type " << type;
  }
}

TEST(RoundTrip, TypedFields) {
  onnx::ModelProto proto = from_text(kPlain);
  const auto add = [&](int type, auto fill) {
    auto& tensor = *proto.mutable_graph()->add_initializer();
    tensor.set_name("extra" + std::to_string(type));
    tensor.set_data_type(type);
    tensor.add_dims(2);
    fill(tensor);
  };
  using T = onnx::TensorProto;
  add(T::BFLOAT16, [](T& t) { t.add_int32_data(0x3f80), t.add_int32_data(0xff80); });
  add(T::INT8, [](T& t) { t.add_int32_data(-1), t.add_int32_data(127); });
  add(T::BOOL, [](T& t) { t.add_int32_data(1), t.add_int32_data(0); });
  add(T::UINT32, [](T& t) { t.add_uint64_data(4294967295U), t.add_uint64_data(0); });
  add(T::INT4, [](T& t) { t.add_int32_data(0xE1); });
  add(T::COMPLEX64, [](T& t) {
    for (int i = 0; i < 4; ++i) t.add_float_data(static_cast<float>(i));
  });
  add(T::STRING, [](T& t) { t.add_string_data("a"), t.add_string_data(std::string("\0b", 2)); });
  EXPECT_EQ(after_round_trip(proto), "");
}

TEST(RoundTrip, TextAroundTheGraph) {
  onnx::ModelProto proto = from_text(kPlain);
  const auto annotate = [](auto& message) {
    auto& entry = *message.add_metadata_props();
    entry.set_key("k");
    entry.set_value("v");
  };
  proto.set_doc_string("model");
  proto.set_model_version(7);
  proto.set_producer_name("p");
  annotate(proto);
  auto& graph = *proto.mutable_graph();
  annotate(graph);
  graph.set_doc_string("graph");
  annotate(*graph.mutable_node(0));
  graph.mutable_node(0)->set_doc_string("node");
  annotate(*graph.mutable_input(0));
  graph.mutable_input(0)->mutable_type()->set_denotation("IMAGE");
  graph.mutable_input(0)->mutable_type()->mutable_tensor_type()->mutable_shape()->mutable_dim(0)->set_denotation("B");
  annotate(*graph.mutable_initializer(0));
  auto& annotation = *graph.add_quantization_annotation();
  annotation.set_tensor_name("h");
  auto& entry = *annotation.add_quant_parameter_tensor_names();
  entry.set_key("SCALE_TENSOR");
  entry.set_value("w");
  EXPECT_EQ(after_round_trip(proto), "");
}

TEST(RoundTrip, FieldsTheIrDoesNotModel) {
  onnx::ModelProto proto = from_text(kPlain);
  proto.add_training_info()->mutable_algorithm()->set_name("step");
  proto.add_configuration()->set_name("two devices");
  proto.mutable_graph()->mutable_node(0)->add_device_configurations()->set_configuration_id("two devices");
  proto.mutable_unknown_fields()->AddVarint(999, 5);
  EXPECT_EQ(after_round_trip(proto), "");
}

TEST(RoundTrip, OddTypesAndShapes) {
  onnx::ModelProto proto = from_text(kPlain);
  auto& graph = *proto.mutable_graph();
  const auto input = [&](const std::string& name) -> onnx::TypeProto& {
    auto& info = *graph.add_input();
    info.set_name(name);
    return *info.mutable_type();
  };
  input("seq").mutable_sequence_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(1);
  input("opt").mutable_optional_type()->mutable_elem_type()->mutable_tensor_type()->set_elem_type(7);
  auto& map = *input("map").mutable_map_type();
  map.set_key_type(8);
  map.mutable_value_type()->mutable_tensor_type()->set_elem_type(1);
  input("opaque").mutable_opaque_type()->set_name("thing");
  auto& dims = *input("dims").mutable_tensor_type();
  dims.set_elem_type(1);
  dims.mutable_shape()->add_dim()->set_dim_value(0);
  dims.mutable_shape()->add_dim()->set_dim_value(-1);
  dims.mutable_shape()->add_dim();
  input("scalar").mutable_tensor_type()->set_elem_type(1);
  graph.mutable_input()->rbegin()->mutable_type()->mutable_tensor_type()->mutable_shape();
  *graph.add_output() = graph.input(graph.input_size() - 1);  // an input passed straight on
  *graph.add_output() = graph.output(0);                      // an output listed twice
  EXPECT_EQ(after_round_trip(proto), "");
}

TEST(RoundTrip, SparseInitializersAndConstants) {
  onnx::ModelProto proto = from_text(kPlain);
  onnx::SparseTensorProto sparse;
  sparse.mutable_values()->set_name("sparse");
  sparse.mutable_values()->set_data_type(1);
  sparse.mutable_values()->add_dims(1);
  sparse.mutable_values()->add_float_data(2);
  sparse.mutable_indices()->set_data_type(7);
  sparse.mutable_indices()->add_dims(1);
  sparse.mutable_indices()->add_int64_data(1);
  sparse.add_dims(4);
  *proto.mutable_graph()->add_sparse_initializer() = sparse;
  auto& node = *proto.mutable_graph()->add_node();
  node.set_op_type("Constant");
  node.add_output("c");
  auto& attribute = *node.add_attribute();
  attribute.set_name("sparse_value");
  attribute.set_type(onnx::AttributeProto::SPARSE_TENSOR);
  *attribute.mutable_sparse_tensor() = sparse;
  EXPECT_EQ(after_round_trip(proto), "");
}

TEST(Import, SortsNodes) {
  onnx::ModelProto proto = from_text(kPlain);
  proto.mutable_graph()->mutable_node()->SwapElements(0, 1);
  const auto model = parse_model(bytes_of(proto.SerializeAsString()));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ((*model)->graph().nodes().front()->op_type(), "Add");
  EXPECT_TRUE(verify(**model));
}

TEST(Import, OldModelsListInitializersAsInputs) {
  onnx::ModelProto proto = from_text(kPlain);
  proto.set_ir_version(3);
  proto.mutable_opset_import(0)->set_version(8);
  auto& info = *proto.mutable_graph()->add_input();
  info.set_name("w");
  info.mutable_type()->mutable_tensor_type()->set_elem_type(1);
  const auto model = parse_model(bytes_of(proto.SerializeAsString()));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_NE((*model)->graph().find("w")->constant(), nullptr);
  EXPECT_EQ(after_round_trip(proto), "");
  // A weight that is no input needs IR version 4, in which listed ones could be overridden: they leave the inputs.
  (*model)->graph().add_initializer("new", Tensor::scalar(1.0F));
  const auto bytes = serialize_model(**model);
  ASSERT_TRUE(bytes);
  const auto again = parse_model(*bytes);
  ASSERT_TRUE(again);
  EXPECT_EQ((*again)->ir_version, 4);
  EXPECT_NE((*again)->graph().find("w")->constant(), nullptr);
  EXPECT_EQ((*again)->graph().inputs().size(), 1U);
}

TEST(Text, PacksSubByteLiterals) {
  const auto model = parse_model_text(R"(<ir_version: 10, opset_import: ["" : 21]>
    g () => (int4[5] y) <int4[5] w = {1, -2, 3, -8, 7}> { y = Identity(w) })");
  ASSERT_TRUE(model) << model.error().message;
  const auto bytes = (*model)->graph().find("w")->constant()->bytes();
  const std::vector<std::byte> expected{std::byte{0xE1}, std::byte{0x83}, std::byte{0x07}};
  EXPECT_TRUE(std::ranges::equal(bytes->span(), expected));
}

TEST(Export, GoldenBytesOfATinyModel) {
  const auto model =
      parse_model_text(R"(<ir_version: 8, opset_import: ["" : 13]> g (float x) => (float y) { y = Abs(x) })");
  const auto bytes = serialize_model(**model);
  ASSERT_TRUE(bytes);
  std::ostringstream hex;
  for (const std::byte each : *bytes) hex << std::hex << (std::to_integer<int>(each) | 0x100);
  std::string text = hex.str();
  std::string plain;
  for (std::size_t i = 0; i < text.size(); i += 3) plain += text.substr(i + 1, 2);
  EXPECT_EQ(plain,
            // ir_version 8; graph of 42 bytes: node, name, input, output; opset 13 of domain "".
            "08083a2a"
            "0a0b0a017812017922034162731201675a0b0a017812060a0408011200620b0a017912060a0408011200"
            "42040a00100d");
}

TEST(RoundTrip, OnnxTestData) {
  int count = 0;
  for (const char* folder : {"onnx-package", "node"}) {
    const std::string root = test::data_path(folder);
    if (root.empty() || !fs::exists(root)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root, fs::directory_options::follow_directory_symlink)) {
      if (entry.path().extension() != ".onnx") continue;
      onnx::ModelProto proto;
      std::ifstream file(entry.path(), std::ios::binary);
      ASSERT_TRUE(proto.ParseFromIstream(&file)) << entry.path();
      EXPECT_EQ(after_round_trip(proto), "") << entry.path();
      ++count;
    }
  }
  if (count == 0) GTEST_SKIP() << "ONNXFOLD_TEST_DATA is not set";
}

}  // namespace
}  // namespace onnxfold::round_trip_test
