#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::compress_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Compress, WritesAModelAndASummary) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  const Outcome outcome = run_program({"compress", in, "-o", folder + "/out.onnx", "--recipe", "clean", "--no-check"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("nodes       2 -> 1"));
  EXPECT_THAT(outcome.out, HasSubstr("NOT CHECKED"));
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx", "out.onnx"));
  EXPECT_THAT(run_program({"inspect", folder + "/out.onnx"}).out, HasSubstr("onnxfold.recipe = "));
}

TEST(Compress, SameBytesAtAnyNumberOfThreads) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  for (const char* count : {"1", "2"}) {
    EXPECT_EQ(
        run_program({"compress", in, "-o", folder + "/" + count, "--recipe", "clean", "--no-check", "--threads", count})
            .code,
        0);
  }
  EXPECT_EQ(read_file(folder + "/1"), read_file(folder + "/2"));
}

TEST(Compress, DryRunWritesNothing) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  const Outcome outcome = run_program({"compress", in, "-o", folder + "/out.onnx", "--recipe", "clean", "--dry-run"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("dry run: nothing written"));
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx"));
}

TEST(Compress, LeavesAnExistingTargetUnlessForced) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  const std::string out = folder + "/out.onnx";
  std::ofstream(out) << "precious";
  std::vector<std::string> arguments = {"compress", in, "-o", out, "--recipe", "clean", "--no-check"};
  const Outcome refused = run_program(arguments);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("--force"));
  EXPECT_EQ(read_file(out), "precious");
  arguments.push_back("--force");
  EXPECT_EQ(run_program(arguments).code, 0);
  EXPECT_NE(read_file(out), "precious");
}

TEST(Compress, ReportsInEveryForm) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  std::vector<std::string> arguments = {"compress", in,      "-o",         folder + "/out.onnx",
                                        "--recipe", "clean", "--no-check", "-q"};
  for (const char* name : {"r.json", "r.xml", "r.md", "r.html"}) {
    arguments.insert(arguments.end(), {"--report", folder + "/" + name});
  }
  const Outcome outcome = run_program(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx", "out.onnx", "r.html", "r.json", "r.md", "r.xml"));
  const auto json = nlohmann::json::parse(read_file(folder + "/r.json"));
  EXPECT_EQ(json["source"]["nodes"], 2);
  EXPECT_EQ(json["target"]["nodes"], 1);
  EXPECT_TRUE(json["written"].get<bool>());
}

TEST(Compress, DumpsAfterAPass) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  const Outcome outcome = run_program({"compress", in, "-o", folder + "/out.onnx", "--pass", "remove-identity",
                                       "--no-check", "--dump-after", "remove-identity"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("---- after remove-identity"));
}

TEST(Convert, MovesWeightsOutAndBack) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", kSmallModel);
  EXPECT_EQ(run_program({"convert", in, "-o", folder + "/e.onnx", "--external"}).code, 0);
  EXPECT_EQ(run_program({"convert", folder + "/e.onnx", "-o", folder + "/i.onnx", "--inline"}).code, 0);
  EXPECT_EQ(run_program({"inspect", folder + "/i.onnx"}).code, 0);
  EXPECT_EQ(run_program({"convert", in, "-o", folder + "/x.onnx", "--external", "--inline"}).code, 2);
}

TEST(Inspect, PrintsJson) {
  const std::string in = write_model(temp_dir(), "in.onnx", kSmallModel);
  const auto json = nlohmann::json::parse(run_program({"inspect", in, "--json"}).out);
  EXPECT_EQ(json["version"], 1);
  EXPECT_EQ(json["operators"]["MatMul"], 1);
  EXPECT_EQ(json["quantizable"]["MatMul"]["bytes"], 24);
}

}  // namespace
}  // namespace onnxfold::test::compress_test
