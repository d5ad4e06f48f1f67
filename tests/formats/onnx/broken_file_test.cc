// Files that are not what they should be: one clear error each, never a crash.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "formats/onnx/onnx_file.h"
#include "tests/support/paths.h"

namespace onnxfold::broken_file_test {
namespace {

namespace fs = std::filesystem;

constexpr char kText[] = R"(<ir_version: 10, opset_import: ["" : 21]>
  g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1, 2, 3}> { h = Add(x, w)  y = Relu(h) })";

std::string valid_bytes() {
  const auto bytes = serialize_model(**parse_model_text(kText));
  return {reinterpret_cast<const char*>(bytes->data()), bytes->size()};
}

std::string write(const std::string& folder, const std::string& name, const std::string& bytes) {
  const std::string path = folder + "/" + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

Error error_of(const std::string& path) {
  const auto model = load_model(path);
  if (model) return {Code::kInternal, "loaded"};
  EXPECT_EQ(model.error().message.find('\n'), std::string::npos) << model.error().message;
  EXPECT_NE(model.error().message.find(path), std::string::npos) << model.error().message;
  return model.error();
}

TEST(BrokenFile, NotAModel) {
  const std::string folder = test::temp_dir();
  EXPECT_EQ(error_of(folder + "/missing.onnx").code, Code::kIo);
  EXPECT_EQ(error_of(folder).code, Code::kIo);
  EXPECT_EQ(error_of(write(folder, "empty", "")).code, Code::kCorrupt);
  EXPECT_EQ(error_of(write(folder, "text", "This is a text file.\n")).code, Code::kCorrupt);
  EXPECT_EQ(error_of(write(folder, "zip", std::string("PK\3\4\0\0\0\0", 8))).code, Code::kCorrupt);
  EXPECT_EQ(error_of(write(folder, "no_graph", std::string("\x08\x0a", 2))).code, Code::kCorrupt);
}

TEST(BrokenFile, Truncated) {
  const std::string folder = test::temp_dir();
  const std::string bytes = valid_bytes();
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(error_of(write(folder, "cut", bytes.substr(0, bytes.size() * i / 16))).code, Code::kCorrupt) << i;
  }
}

TEST(BrokenFile, EveryByteFlippedLoadsOrFails) {
  const std::string bytes = valid_bytes();
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (const int mask : {0x01, 0x80, 0xff}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      const auto model = parse_model(std::as_bytes(std::span(damaged)));
      if (model) {
        EXPECT_TRUE(serialize_model(**model));
      } else {
        EXPECT_NE(model.error().code, Code::kInternal) << model.error().message;
      }
    }
  }
}

Error damaged(const std::function<void(onnx::ModelProto&)>& damage) {
  onnx::ModelProto proto;
  proto.ParseFromString(valid_bytes());
  damage(proto);
  const std::string bytes = proto.SerializeAsString();
  const auto model = parse_model(std::as_bytes(std::span(bytes)));
  return model ? Error{Code::kInternal, "loaded"} : model.error();
}

TEST(BrokenFile, CycleNamesANode) {
  const Error error = damaged([](auto& proto) { proto.mutable_graph()->mutable_node(0)->set_input(1, "y"); });
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_NE(error.message.find("cycle"), std::string::npos) << error.message;
}

TEST(BrokenFile, BrokenGraphs) {
  const auto node = [](onnx::ModelProto& proto) { return proto.mutable_graph()->mutable_node(0); };
  const auto weight = [](onnx::ModelProto& proto) { return proto.mutable_graph()->mutable_initializer(0); };
  const std::function<void(onnx::ModelProto&)> damages[] = {
      [&](auto& proto) { node(proto)->set_input(0, "nowhere"); },
      [&](auto& proto) { node(proto)->set_output(0, "y"); },
      [&](auto& proto) { node(proto)->clear_op_type(); },
      [&](auto& proto) { proto.mutable_graph()->mutable_output(0)->set_name("nowhere"); },
      [&](auto& proto) { proto.mutable_graph()->mutable_input(0)->clear_name(); },
      [&](auto& proto) { *proto.mutable_graph()->add_initializer() = proto.graph().initializer(0); },
      [&](auto& proto) { weight(proto)->clear_name(); },
      [&](auto& proto) { weight(proto)->set_dims(0, 4); },
      [&](auto& proto) { weight(proto)->set_dims(0, -3); },
      [&](auto& proto) { weight(proto)->set_dims(0, std::int64_t{1} << 62), weight(proto)->add_dims(8); },
      [&](auto& proto) { weight(proto)->set_data_type(0); },
      [&](auto& proto) { proto.clear_opset_import(); },
  };
  for (const auto& damage : damages) EXPECT_EQ(damaged(damage).code, Code::kCorrupt) << &damage - damages;
}

TEST(BrokenFile, RefusesWhatItWouldDrop) {
  const auto refused = [](const std::function<void(onnx::ModelProto&)>& damage) {
    EXPECT_EQ(damaged(damage).code, Code::kUnsupported);
  };
  refused([](auto& proto) { proto.mutable_graph()->mutable_unknown_fields()->AddVarint(900, 1); });
  refused([](auto& proto) { proto.mutable_graph()->mutable_initializer(0)->set_data_type(27); });
  refused([](auto& proto) { proto.mutable_graph()->mutable_initializer(0)->mutable_segment()->set_begin(0); });
}

TEST(BrokenText, SaysWhere) {
  const auto model = parse_model_text("<ir_version: 10> g (float x => (float y) {}");
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, Code::kCorrupt);
}

// ---- external data ----

class External : public ::testing::Test {
 protected:
  // Loads a model whose weight of 12 bytes lies in a file of 16 bytes, described by `entries`.
  Result<std::unique_ptr<Model>> load(const std::vector<std::pair<std::string, std::string>>& entries) {
    onnx::ModelProto proto;
    proto.ParseFromString(valid_bytes());
    auto& tensor = *proto.mutable_graph()->mutable_initializer(0);
    tensor.clear_raw_data();
    tensor.set_data_location(onnx::TensorProto::EXTERNAL);
    for (const auto& [key, value] : entries) {
      auto& entry = *tensor.add_external_data();
      entry.set_key(key);
      entry.set_value(value);
    }
    write(folder_, "inside.bin", std::string(16, '\1'));
    return load_model(write(folder_, "model.onnx", proto.SerializeAsString()));
  }
  void expect(Code code, const std::vector<std::pair<std::string, std::string>>& entries) {
    const auto model = load(entries);
    ASSERT_FALSE(model) << entries.back().second;
    EXPECT_EQ(model.error().code, code) << model.error().message;
    EXPECT_NE(model.error().message.find("'w'"), std::string::npos) << model.error().message;
  }

  std::string parent_ = test::temp_dir();
  std::string folder_ = (fs::create_directory(parent_ + "/model"), parent_ + "/model");
};

TEST_F(External, Loads) {
  EXPECT_TRUE(load({{"location", "inside.bin"}}));
  EXPECT_TRUE(load({{"location", "./inside.bin"}, {"offset", "4"}, {"length", "12"}, {"unknown", "key"}}));
}

TEST_F(External, StaysInTheFolder) {
  write(parent_, "outside.bin", std::string(16, '\1'));
  expect(Code::kCorrupt, {{"location", "../outside.bin"}});
  expect(Code::kCorrupt, {{"location", parent_ + "/outside.bin"}});
  expect(Code::kCorrupt, {{"location", folder_ + "/inside.bin"}});
  expect(Code::kCorrupt, {{"location", ""}});
  fs::create_symlink(parent_ + "/outside.bin", folder_ + "/link.bin");
  expect(Code::kCorrupt, {{"location", "link.bin"}});
  fs::create_symlink(folder_ + "/inside.bin", folder_ + "/near.bin");
  EXPECT_TRUE(load({{"location", "near.bin"}}));
}

TEST_F(External, StaysInTheFolderOfABareFileName) {
  write(parent_, "outside.bin", std::string(16, '\1'));
  fs::create_symlink(parent_ + "/outside.bin", folder_ + "/link.bin");
  (void)load({{"location", "link.bin"}});
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  const auto model = load_model("model.onnx");
  fs::current_path(before);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, Code::kCorrupt) << model.error().message;
}

TEST_F(External, StaysInTheFile) {
  expect(Code::kCorrupt, {{"location", "inside.bin"}, {"offset", "5"}});
  expect(Code::kCorrupt, {{"location", "inside.bin"}, {"offset", "-1"}});
  expect(Code::kCorrupt, {{"location", "inside.bin"}, {"offset", "9223372036854775807"}});
  expect(Code::kCorrupt, {{"location", "inside.bin"}, {"offset", "99999999999999999999"}});
  expect(Code::kCorrupt, {{"location", "inside.bin"}, {"offset", "1x"}});
  expect(Code::kCorrupt, {{"location", "inside.bin"}, {"length", "16"}});
  expect(Code::kIo, {{"location", "missing.bin"}});
  expect(Code::kIo, {{"location", "."}});
}

TEST_F(External, ReportsDeadBytes) {
  ASSERT_TRUE(load({{"location", "inside.bin"}}));
  fs::resize_file(folder_ + "/inside.bin", 1 << 20);
  LoadStats stats;
  ASSERT_TRUE(load_model(folder_ + "/model.onnx", &stats));
  EXPECT_EQ(stats.external_bytes, 1 << 20);
  EXPECT_EQ(stats.dead_bytes, (1 << 20) - 12);
}

TEST_F(External, FarIntoASparseFile) {
  ASSERT_TRUE(load({{"location", "inside.bin"}, {"offset", "4"}}));
  constexpr std::int64_t kFar = std::int64_t{5} << 30;
  std::ofstream(folder_ + "/far.bin") << "";
  fs::resize_file(folder_ + "/far.bin", kFar + 12);
  const auto model = load({{"location", "far.bin"}, {"offset", std::to_string(kFar)}});
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ((*model)->graph().find("w")->constant()->file()->offset, kFar);
  expect(Code::kCorrupt, {{"location", "far.bin"}, {"offset", std::to_string(kFar + 1)}});
}

}  // namespace
}  // namespace onnxfold::broken_file_test
