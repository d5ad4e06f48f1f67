// Writing: atomic, deterministic, within the memory budget.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "formats/onnx/onnx_file.h"
#include "formats/pending_files.h"
#include "tests/support/paths.h"

namespace onnxfold::save_test {
namespace {

namespace fs = std::filesystem;

constexpr char kText[] = R"(<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Relu(x) })";

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return (std::ostringstream() << file.rdbuf()).str();
}

std::size_t files_in(const std::string& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

// A model with `count` weights of `bytes` bytes, the i-th full of i, made by `making`.
std::unique_ptr<Model> model_of(
    int count, std::int64_t bytes, const std::function<void()>& making = [] {}) {
  auto model = *parse_model_text(kText);
  for (int i = 0; i < count; ++i) {
    model->graph().add_initializer("w" + std::to_string(i),
                                   Tensor::deferred(DType::kUint8, {bytes}, [i, bytes, making]() -> Result<Buffer> {
                                     making();
                                     return Buffer(static_cast<std::size_t>(bytes), static_cast<std::byte>(i));
                                   }));
  }
  return model;
}

SaveOptions external() {
  SaveOptions options;
  options.placement = DataPlacement::kExternal;
  return options;
}

TEST(Save, ExternalLayout) {
  const std::string folder = test::temp_dir();
  const auto model = model_of(3, 5000);
  const Tensor shared = *model->graph().find("w0")->constant();
  model->graph().add_initializer("twin", shared);
  model->graph().add_initializer("small", Tensor::scalar(1.0F));
  const auto stats = save_model(*model, folder + "/m.onnx", external());
  ASSERT_TRUE(stats) << stats.error().message;
  EXPECT_EQ(stats->external_bytes, 2 * 8192 + 5000);
  LoadStats loaded_stats;
  const auto loaded = load_model(folder + "/m.onnx", &loaded_stats);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded_stats.dead_bytes, 0);
  for (const char* name : {"w0", "w1", "w2"}) {
    const Tensor* tensor = (*loaded)->graph().find(name)->constant();
    ASSERT_NE(tensor->file(), nullptr);
    EXPECT_EQ(tensor->file()->offset % 4096, 0);
    EXPECT_EQ(*tensor->content_hash(), *model->graph().find(name)->constant()->content_hash());
  }
  EXPECT_EQ((*loaded)->graph().find("twin")->constant()->file()->offset, 0);
  EXPECT_EQ((*loaded)->graph().find("small")->constant()->file(), nullptr);
}

TEST(Save, SameBytesAtAnyThreadCount) {
  const std::string folder = test::temp_dir();
  const auto model = model_of(40, 3000);
  SaveOptions options = external();
  options.external_name = "data";
  std::string bytes[2];
  for (const int threads : {1, 4}) {
    const std::string inside = folder + "/" + std::to_string(threads);
    fs::create_directory(inside);
    options.threads = threads;
    ASSERT_TRUE(save_model(*model, inside + "/m.onnx", options));
    bytes[threads == 4] = content(inside + "/m.onnx") + content(inside + "/data");
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST(Save, DeferredTensorsStayInTheBudget) {
  const std::string folder = test::temp_dir();
  std::atomic<int> running = 0, peak = 0;
  const auto model = model_of(16, 1 << 20, [&] {
    const int now = ++running;
    int seen = peak;
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    --running;
  });
  SaveOptions options = external();
  options.threads = 8;
  options.memory_budget = 6 << 20;
  ASSERT_TRUE(save_model(*model, folder + "/m.onnx", options));
  EXPECT_LE(peak, 2);
}

TEST(Save, ALimitThatOneTensorPassesIsAnError) {
  const std::string folder = test::temp_dir();
  const auto model = model_of(2, 1 << 20);
  SaveOptions options = external();
  options.memory_budget = 2 << 20;
  options.memory_limited = true;
  const auto stats = save_model(*model, folder + "/m.onnx", options);
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().code, Code::kResource);
  EXPECT_EQ(files_in(folder), 0U);
  options.memory_budget = 3 << 20;
  EXPECT_TRUE(save_model(*model, folder + "/m.onnx", options));
  options.memory_budget = 2 << 20;
  options.memory_limited = false;  // alone
  options.overwrite = true;
  EXPECT_TRUE(save_model(*model, folder + "/m.onnx", options));
}

TEST(Save, FailingTensorLeavesNothing) {
  for (const auto placement : {DataPlacement::kInline, DataPlacement::kExternal}) {
    const std::string folder = test::temp_dir();
    const auto model = model_of(4, 5000);
    model->graph().add_initializer("bad", Tensor::deferred(DType::kUint8, {5000}, []() -> Result<Buffer> {
                                     return fail(Code::kGate, "no such luck");
                                   }));
    SaveOptions options;
    options.placement = placement;
    options.threads = 2;
    const auto stats = save_model(*model, folder + "/m.onnx", options);
    ASSERT_FALSE(stats);
    EXPECT_EQ(stats.error().code, Code::kGate);
    EXPECT_EQ(files_in(folder), 0U);
  }
}

TEST(Save, ExistingTargetSurvivesAFailure) {
  const std::string folder = test::temp_dir();
  std::ofstream(folder + "/m.onnx") << "precious";
  auto model = model_of(1, 5000);
  EXPECT_EQ(save_model(*model, folder + "/m.onnx", {}).error().code, Code::kInvalidArgument);
  model->graph().add_initializer(
      "bad", Tensor::deferred(DType::kUint8, {1}, []() -> Result<Buffer> { return fail(Code::kIo, "gone"); }));
  SaveOptions options;
  options.overwrite = true;
  EXPECT_FALSE(save_model(*model, folder + "/m.onnx", options));
  EXPECT_EQ(content(folder + "/m.onnx"), "precious");
  EXPECT_EQ(files_in(folder), 1U);
}

TEST(Save, ImpossibleTargets) {
  const std::string folder = test::temp_dir();
  const auto model = model_of(1, 5000);
  EXPECT_EQ(save_model(*model, folder + "/none/m.onnx", {}).error().code, Code::kIo);
  EXPECT_EQ(save_model(*model, folder, {}).error().code, Code::kIo);
  SaveOptions options = external();
  options.external_name = "../data";
  EXPECT_EQ(save_model(*model, folder + "/m.onnx", options).error().code, Code::kInvalidArgument);
  options.external_name = "m.onnx";
  EXPECT_EQ(save_model(*model, folder + "/m.onnx", options).error().code, Code::kInvalidArgument);
  EXPECT_EQ(files_in(folder), 0U);
}

TEST(Save, OverTheFilesBeingRead) {
  const std::string folder = test::temp_dir();
  SaveOptions options = external();
  options.overwrite = true;
  ASSERT_TRUE(save_model(*model_of(3, 5000), folder + "/m.onnx", options));
  const std::string before = content(folder + "/m.onnx.data");
  const auto loaded = load_model(folder + "/m.onnx");
  ASSERT_TRUE(loaded);
  // Another model takes the path: the loaded one still reads what it was loaded from.
  ASSERT_TRUE(save_model(*model_of(1, 100000), folder + "/m.onnx", options));
  ASSERT_TRUE(save_model(**loaded, folder + "/m.onnx", options));
  EXPECT_EQ(content(folder + "/m.onnx.data"), before);
}

TEST(Save, LargeConstantNodesBecomeInitializersOutside) {
  auto model = *parse_model_text(
      R"(<ir_version: 10, opset_import: ["" : 21]> g () => (float[2000] y) { y = Abs(c)  c = Constant<value_floats = [0.5]>() })");
  const std::string folder = test::temp_dir();
  Graph& graph = model->graph();
  NodeSpec spec{"Constant", {}, {OutputSpec{"big", {}, false}}, {}, "", "k"};
  spec.attributes.emplace_back("value", Tensor::owned(DType::kFloat32, {2000}, Buffer(8000)));
  Node* constant = graph.insert(std::move(spec), graph.nodes_of("Abs").front());
  graph.set_input(*graph.nodes_of("Abs").front(), 0, constant->output());
  ASSERT_TRUE(save_model(*model, folder + "/m.onnx", external()));
  const auto loaded = load_model(folder + "/m.onnx");
  ASSERT_TRUE(loaded) << loaded.error().message;
  ASSERT_NE((*loaded)->graph().find("big"), nullptr);
  EXPECT_NE((*loaded)->graph().find("big")->initializer(), nullptr);
  EXPECT_EQ((*loaded)->graph().nodes_of("Constant").size(), 1U);
}

TEST(Save, WritesTheImportsAndIrVersionThatTheContentNeeds) {
  auto model =
      *parse_model_text(R"(<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) })");
  EXPECT_EQ((*parse_model(*serialize_model(*model)))->ir_version, 8);
  model->graph().insert({"Gelu", {model->graph().find("x")}, {OutputSpec{"z", {}, false}}, {}, "com.microsoft", ""});
  model->graph().add_initializer("q", Tensor::owned(DType::kInt4, {2}, Buffer(1)));
  const auto back = *parse_model(*serialize_model(*model));
  EXPECT_EQ(back->ir_version, 10);
  EXPECT_EQ(back->opset_imports, (OpsetImports{{"", 17}, {"com.microsoft", 1}}));
}

TEST(PendingFiles, SignalHandlerRemovesThem) {
  const std::string folder = test::temp_dir();
  auto file = PendingFile::create(folder + "/x");
  ASSERT_TRUE(file);
  EXPECT_EQ(files_in(folder), 1U);
  remove_pending_files();
  EXPECT_EQ(files_in(folder), 0U);
}

}  // namespace
}  // namespace onnxfold::save_test
