// Large tensors stay in the model's file; what is loaded is what parsing the whole file gives.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <filesystem>
#include <fstream>

#include "formats/onnx/onnx_file.h"
#include "tests/support/paths.h"

namespace onnxfold::left_in_file_test {
namespace {

constexpr int kLarge = 128 * 128;  // floats, 64 KiB

// An initializer, a Constant and a Constant in a branch, each of [rows, 128], filled with 1, 2 and 3.
onnx::ModelProto model_with(int rows) {
  constexpr char kText[] = R"(<ir_version: 10, opset_import: ["" : 21]>
    g (bool c, float[N, 128] x) => (float[N, M] y) <float[1] w = {0}> {
      k = Constant <value = float[1] {0}> ()
      a = If (c) <then_branch = t () => (float[R, 128] b) { b = Constant <value = float[1] {0}> () },
                  else_branch = e () => (float[R, 128] d) { d = Identity (w) }>
      s = Add(a, k)  t = Transpose(s)  y = MatMul(x, t) })";
  const auto bytes = serialize_model(**parse_model_text(kText));
  onnx::ModelProto proto;
  EXPECT_TRUE(proto.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())));
  auto& nodes = *proto.mutable_graph()->mutable_node();
  int value = 0;
  for (onnx::TensorProto* tensor :
       {proto.mutable_graph()->mutable_initializer(0), nodes[0].mutable_attribute(0)->mutable_t(),
        nodes[1].mutable_attribute(0)->mutable_g()->mutable_node(0)->mutable_attribute(0)->mutable_t()}) {
    const std::vector<float> data(static_cast<std::size_t>(rows) * 128, static_cast<float>(++value));
    tensor->clear_dims();
    tensor->clear_float_data();
    tensor->add_dims(rows);
    tensor->add_dims(128);
    tensor->set_raw_data(data.data(), data.size() * sizeof(float));
  }
  return proto;
}

std::string write(const std::string& bytes) {
  static int count = 0;
  const std::string path = test::temp_dir() + "/" + std::to_string(count++) + ".onnx";
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

int tensors_in_file(Model& model) {
  int count = 0;
  for (const Graph* graph : model.graphs()) {
    for (const Value* value : graph->values()) {
      const Tensor* tensor = value->initializer() != nullptr ? value->initializer() : value->constant();
      if (tensor != nullptr && tensor->file() != nullptr) ++count;
    }
  }
  return count;
}

// Both ways of loading agree: the same model, or an error of both.
void expect_same(const std::string& bytes, const std::string& what) {
  const auto parsed = parse_model(std::as_bytes(std::span(bytes)));
  const std::string path = write(bytes);
  const auto loaded = load_model(path);
  std::filesystem::remove(path);
  ASSERT_EQ(parsed.has_value(), loaded.has_value())
      << what << (parsed ? loaded.error().message : parsed.error().message);
  if (parsed) {
    EXPECT_EQ(*serialize_model(**parsed), *serialize_model(**loaded)) << what;
  } else {
    EXPECT_EQ(parsed.error().code, loaded.error().code) << what << loaded.error().message;
  }
}

TEST(LeftInFile, LargeTensorsAreRegionsOfTheFile) {
  const std::string bytes = model_with(128).SerializeAsString();
  const auto model = load_model(write(bytes));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(tensors_in_file(**model), 3);
  const Tensor& w = *(*model)->graph().find("w")->initializer();
  EXPECT_EQ(w.file()->length, kLarge * 4);
  EXPECT_EQ((*to_floats(w))[5], 1.0F);
  expect_same(bytes, "as it is");
}

TEST(LeftInFile, SmallAndTypedDataAreParsed) {
  EXPECT_EQ(tensors_in_file(**load_model(write(model_with(127).SerializeAsString()))), 0);
  auto proto = model_with(128);
  auto* tensor = proto.mutable_graph()->mutable_initializer(0);
  tensor->clear_raw_data();
  for (int i = 0; i < kLarge; ++i) tensor->add_float_data(7);
  const auto model = load_model(write(proto.SerializeAsString()));
  EXPECT_EQ(tensors_in_file(**model), 2);
  EXPECT_EQ((*to_floats(*(*model)->graph().find("w")->initializer()))[9], 7.0F);
}

TEST(LeftInFile, SavedOverItself) {
  const std::string path = write(model_with(128).SerializeAsString());
  const auto model = load_model(path);
  SaveOptions options;
  options.overwrite = true;
  ASSERT_TRUE(save_model(**model, path, options));
  EXPECT_EQ(*serialize_model(**model), *serialize_model(**load_model(path)));
}

TEST(LeftInFile, UnusualTensorsAreParsedWhole) {
  const auto changed = [](auto change) {
    auto proto = model_with(128);
    change(proto, *proto.mutable_graph()->mutable_initializer(0));
    expect_same(proto.SerializeAsString(), "");
  };
  changed([](auto&, auto& tensor) { tensor.mutable_segment()->set_end(kLarge * 4); });
  changed([](auto&, auto& tensor) { tensor.set_data_location(onnx::TensorProto::EXTERNAL); });
  changed([](auto&, auto& tensor) { tensor.set_data_location(onnx::TensorProto::DEFAULT); });
  changed([](auto&, auto& tensor) { tensor.set_data_type(onnx::TensorProto::STRING); });
  changed([](auto&, auto& tensor) { tensor.set_dims(0, 129); });
  changed([](auto& proto, auto&) {  // a mark of ours, forged
    auto& mark = *proto.mutable_graph()->add_initializer();
    mark.set_name("forged");
    mark.set_data_type(onnx::TensorProto::UINT8);
    mark.add_dims(8);
    mark.set_data_location(onnx::TensorProto::EXTERNAL);
    mark.mutable_segment()->set_end(8);
  });
}

TEST(LeftInFile, WrongSizeIsNamed) {
  auto proto = model_with(128);
  proto.mutable_graph()->mutable_initializer(0)->set_dims(0, 129);
  const auto model = load_model(write(proto.SerializeAsString()));
  ASSERT_FALSE(model);
  EXPECT_NE(model.error().message.find("tensor 'w': holds 65536 bytes where its shape needs 66048"), std::string::npos)
      << model.error().message;
}

TEST(LeftInFile, FieldsThatComeTwiceMeanWhatProtobufSays) {
  const auto proto = model_with(128);
  onnx::ModelProto graph_only;
  *graph_only.mutable_graph() = proto.graph();
  const std::string bytes = proto.SerializeAsString();
  expect_same(bytes + graph_only.SerializeAsString(), "graph twice");
  expect_same(bytes + "\x0a", "a field cut off");
  expect_same(bytes + std::string("\x0b\x0c", 2), "a group");
  expect_same(std::string(bytes, 0, bytes.size() - 9), "cut off in the graph");
}

TEST(LeftInFile, EveryFlippedByteGivesWhatParsingGives) {
  const std::string bytes = model_with(128).SerializeAsString();
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    // Inside of data (runs of the same float) one byte says as much as all.
    const bool inside = at >= 8 && at + 8 <= bytes.size() && bytes.compare(at - 8, 8, bytes, at - 4, 8) == 0;
    if (inside) continue;
    for (const int mask : {0x01, 0x08, 0x80}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      expect_same(damaged, std::to_string(at) + "^" + std::to_string(mask) + " ");
    }
  }
}

}  // namespace
}  // namespace onnxfold::left_in_file_test
