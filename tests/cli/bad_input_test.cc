#include <gmock/gmock.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "formats/npz/npz.h"
#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::bad_input_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

Outcome compress(const std::string& in, const std::string& out) {
  return run_program({"compress", in, "-o", out, "--recipe", "clean", "--no-check"});
}

// One clear line, the exit code, and no file more than before.
void expect_refused(const std::string& content, int code) {
  const std::string folder = temp_dir();
  std::ofstream(folder + "/in.onnx", std::ios::binary) << content;
  const Outcome outcome = compress(folder + "/in.onnx", folder + "/out.onnx");
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_THAT(outcome.err, StartsWith("onnxfold: error: "));
  EXPECT_THAT(outcome.err, HasSubstr("in.onnx"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx"));
}

TEST(BadInput, FilesThatAreNoModels) {
  expect_refused("", 3);
  expect_refused("hello, I am text\n", 3);
  expect_refused("PK\x03\x04 a zip file", 3);
  std::mt19937 random(7);
  std::string noise;
  for (int i = 0; i < 4096; ++i) noise += static_cast<char>(random());
  expect_refused(noise, 3);
}

TEST(BadInput, TruncatedFiles) {
  const std::string folder = temp_dir();
  const std::string whole = read_file(write_model(folder, "whole.onnx", kSmallModel));
  for (const std::size_t size : {whole.size() / 3, whole.size() / 2, whole.size() - 1})
    expect_refused(whole.substr(0, size), 3);
}

TEST(BadInput, MissingFile) {
  const Outcome outcome = compress(temp_dir() + "/none.onnx", temp_dir() + "/out.onnx");
  EXPECT_EQ(outcome.code, 4);
  EXPECT_THAT(outcome.err, HasSubstr("none.onnx"));
}

TEST(BadInput, MissingAndShortExternalData) {
  const std::string folder = temp_dir();
  const std::string in = write_model(
      folder, "in.onnx",
      R"(
    <ir_version: 10, opset_import: ["" : 21]>
    agraph (float[512] x) => (float[512] y) <float[512] w = {)" +
          [] {
            std::string numbers = "1";
            for (int i = 1; i < 512; ++i) numbers += ", 2";
            return numbers;
          }() +
          "}> { y = Add(x, w) }");
  const std::string external = folder + "/e.onnx";
  ASSERT_EQ(run_program({"convert", in, "-o", external, "--external"}).code, 0);
  ASSERT_TRUE(std::filesystem::exists(external + ".data"));
  std::filesystem::resize_file(external + ".data", 100);
  EXPECT_EQ(compress(external, folder + "/out.onnx").code, 3);
  std::filesystem::remove(external + ".data");
  const Outcome missing = compress(external, folder + "/out.onnx");
  EXPECT_TRUE(missing.code == 3 || missing.code == 4) << missing.code;
  EXPECT_THAT(missing.err, HasSubstr("e.onnx.data"));
  EXPECT_THAT(files_in(folder), ElementsAre("e.onnx", "in.onnx"));
}

TEST(BadInput, AnUnknownOperatorCannotBeCheckedButCanBeWritten) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kUnknownOperatorModel);
  const Outcome checked = run_program({"compress", in, "-o", folder + "/out.onnx", "--recipe", "clean"});
  EXPECT_EQ(checked.code, 3) << checked.err;
  EXPECT_THAT(checked.err, HasSubstr("--no-check"));
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx"));
  EXPECT_EQ(compress(in, folder + "/out.onnx").code, 0);
}

TEST(BadTarget, FoldersDevicesAndMissingFolders) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  EXPECT_EQ(compress(in, folder + "/none/out.onnx").code, 4);
  EXPECT_EQ(compress(in, "/dev/full").code, 4);
  EXPECT_EQ(compress(in, folder).code, 4);
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx"));
}

TEST(BadTarget, AFullDeviceUnderAReportIsAnError) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  std::filesystem::create_symlink("/dev/full", folder + "/full.json");
  const Outcome outcome = run_program({"compress", in, "-o", folder + "/out.onnx", "--recipe", "clean", "--no-check",
                                       "--report", folder + "/full.json"});
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("full.json"));
}

TEST(BadData, AMissingFileIsSaidAtOnce) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  const Outcome outcome =
      run_program({"compress", in, "-o", folder + "/out.onnx", "--recipe", "clean", "--data", folder + "/none.npz"});
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("none.npz"));
}

Outcome compress_on(const std::string& in, const std::string& data) {
  return run_program({"compress", in, "-o", in + ".out.onnx", "--recipe", "clean", "--data", data});
}

TEST(BadData, NamesShapesAndTypesThatDoNotFit) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel), data = folder + "/data.npz";
  const auto expect = [&](const std::map<std::string, Tensor>& arrays, const std::string& part) {
    ASSERT_TRUE(save_npz(data, arrays));
    const Outcome outcome = compress_on(in, data);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_THAT(files_in(folder), ElementsAre("data.npz", "in.onnx"));
  };
  const Tensor good = Tensor::of<float>({2, 3}, {1, 2, 3, 4, 5, 6});
  expect({{"a", good}, {"b", good}}, "no array for input 'x'");
  expect({{"x", Tensor::of<float>({3, 2}, {1, 2, 3, 4, 5, 6})}}, "needs float[N,3]");
  expect({{"x", Tensor::of<std::int64_t>({2, 3}, {1, 2, 3, 4, 5, 6})}}, "int64[2,3]");
  expect({{"x", Tensor::of<float>({0, 3}, {})}}, "no samples");
  ASSERT_TRUE(save_npz(data, {{"x", good}}));
  EXPECT_EQ(compress_on(in, data).code, 0);
}

TEST(BadData, NothingButNanProvesNothing) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel), data = folder + "/data.npz";
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(save_npz(data, {{"x", Tensor::of<float>({1, 3}, {nan, nan, nan})}}));
  const Outcome outcome = compress_on(in, data);
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("output 'y' is NaN"));
  EXPECT_THAT(files_in(folder), ElementsAre("data.npz", "in.onnx"));
}

TEST(BadTarget, AFileThatMayNotGrowLikeAFullDisk) {
  const std::string folder = temp_dir();
  const std::string in = source_path("samples/vit_a.onnx");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{100'000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Outcome outcome = run_program({"compress", in, "-o", folder + "/out.onnx", "--recipe", "int4", "--no-check"});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(outcome.code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("out.onnx"));
  EXPECT_THAT(files_in(folder), ElementsAre());
}

TEST(FailedGate, LeavesNothingOrKeepsTheResultUnderAnotherName) {
  const std::string folder = temp_dir();
  const std::string in = source_path("samples/vit_a.onnx");
  std::vector<std::string> words = {"compress", in,     "-o",        folder + "/out.onnx",
                                    "--recipe", "int4", "--max-abs", "1e-6"};
  const Outcome failed = run_program(words);
  EXPECT_EQ(failed.code, 1) << failed.err;
  EXPECT_THAT(failed.err, HasSubstr("max-abs"));
  EXPECT_THAT(files_in(folder), ElementsAre());
  words.emplace_back("--keep-failed");
  EXPECT_EQ(run_program(words).code, 1);
  EXPECT_THAT(files_in(folder), ElementsAre("out.failed.onnx"));
}

}  // namespace
}  // namespace onnxfold::test::bad_input_test
