#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::budget_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string numbers(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::string text;
  for (std::int64_t i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(0.1 * normal(random));
  return text;
}

std::string two_layers() {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w1 = {" +
         numbers(4096, 1) + "}, float[64, 64] w2 = {" + numbers(4096, 2) +
         "}> { a = MatMul(x, w1)\n b = Tanh(a)\n y = MatMul(b, w2) }";
}

std::int64_t file_bytes(const std::string& path) { return static_cast<std::int64_t>(std::filesystem::file_size(path)); }

TEST(Budget, ATargetSizeIsKeptAndTheTableSaysWhatWasTried) {
  const std::string folder = temp_dir(), out = folder + "/out.onnx";
  const std::string in = write_model(folder, "in.onnx", two_layers());
  const Outcome outcome = run_program(
      {"compress", in, "-o", out, "--target-size", "6K", "--min-cosine", "0.5", "--report", folder + "/r.json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_LE(file_bytes(out), 6 * 1024);
  EXPECT_THAT(outcome.out, HasSubstr("goal        at most 6.1 kB"));
  EXPECT_THAT(outcome.out, HasSubstr("chosen"));
  EXPECT_THAT(outcome.out, HasSubstr("generated inputs"));
  const auto json = nlohmann::json::parse(read_file(folder + "/r.json"));
  EXPECT_GE(json["budget"]["attempts"].size(), 2U);
  EXPECT_THAT(json["recipe"]["yaml"].get<std::string>(), HasSubstr("rtn-search"));
}

TEST(Budget, AutoFindsTheSmallestThatPasses) {
  const std::string folder = temp_dir(), out = folder + "/out.onnx";
  const std::string in = write_model(folder, "in.onnx", two_layers());
  const Outcome outcome = run_program({"compress", in, "-o", out, "--auto", "--max-rel-l2", "0.15"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("FAILED"));
  EXPECT_THAT(outcome.out, HasSubstr("chosen"));
  EXPECT_LT(file_bytes(out), file_bytes(in) / 4);
}

TEST(Budget, WhatCannotBeIsSaid) {
  const std::string folder = temp_dir(), out = folder + "/out.onnx";
  const std::string in = write_model(folder, "in.onnx", two_layers());
  const Outcome least = run_program({"compress", in, "-o", out, "--target-bits", "1"});
  EXPECT_EQ(least.code, 2);
  EXPECT_THAT(least.err, HasSubstr("the least is"));
  EXPECT_EQ(run_program({"compress", in, "-o", out, "--target-bits", "4", "--auto"}).code, 2);
  EXPECT_EQ(run_program({"compress", in, "-o", out, "--target-size", "much"}).code, 2);
  EXPECT_EQ(run_program({"compress", in, "-o", out, "--target-bits", "4", "--pass", "rtn:formats=w1=8"}).code, 2);
  EXPECT_THAT(files_in(folder), ElementsAre("in.onnx"));
}

TEST(DryRun, PredictsTheSizeToTheByte) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", two_layers());
  for (const std::vector<std::string>& how : {std::vector<std::string>{"--pass", "rtn-search:bits=4"},
                                              {"--external", "--pass", "rtn:bits=8"},
                                              {"--pass", "rtn:bits=2,symmetric=false,formats=w1=float"}}) {
    const std::string out = folder + "/out.onnx", predicted = folder + "/p.json", written = folder + "/w.json";
    std::vector<std::string> arguments = {"compress", in, "-o", out, "-q", "--force"};
    arguments.insert(arguments.end(), how.begin(), how.end());
    std::vector<std::string> dry = arguments;
    dry.insert(dry.end(), {"--dry-run", "--report", predicted});
    arguments.insert(arguments.end(), {"--no-check", "--report", written});
    ASSERT_EQ(run_program(dry).code, 0);
    ASSERT_EQ(run_program(arguments).code, 0);
    const auto before = nlohmann::json::parse(read_file(predicted)), after = nlohmann::json::parse(read_file(written));
    EXPECT_TRUE(before["predicted"].get<bool>());
    EXPECT_EQ(before["target"]["bytes"], after["target"]["bytes"]);
    EXPECT_TRUE(before["source"]["xxh128"].is_null());  // nothing was read to hash it
    EXPECT_EQ(after["source"]["xxh128"].get<std::string>().size(), 32U);
    EXPECT_GT(before["peak_memory_bytes"].get<std::int64_t>(), 0);
  }
}

TEST(Analyze, SensitivityOfEveryWeight) {
  const std::string folder = temp_dir();
  const std::string in = write_model(folder, "in.onnx", two_layers());
  const Outcome outcome = run_program({"analyze", in, "--sensitivity", "--report", folder + "/s.json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("w1"));
  EXPECT_THAT(outcome.out, HasSubstr("inputs are random"));
  EXPECT_THAT(outcome.out, HasSubstr("most sensitive weight first"));
  const auto json = nlohmann::json::parse(read_file(folder + "/s.json"));
  ASSERT_EQ(json["weights"].size(), 2U);
  EXPECT_EQ(json["weights"][0]["formats"].size(), 3U);
  EXPECT_TRUE(json["weights"][0]["formats"][1]["measured"].get<bool>());
  EXPECT_EQ(run_program({"analyze", in, "--sensitivity", "--depth"}).code, 2);
}

}  // namespace
}  // namespace onnxfold::test::budget_test
