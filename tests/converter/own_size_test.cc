#include "converter/own_size.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "converter/compress.h"
#include "tests/passes/tie/stacks.h"
#include "tests/support/paths.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::own_size_test {
namespace {

using test::ffn_stack;
using testing::HasSubstr;

std::string saved(const std::string& folder, const std::string& text) {
  const std::string path = folder + "/in.onnx";
  EXPECT_TRUE(save_model(*test::model_from_text(text), path, {}));
  return path;
}

CompressOptions job(const std::string& folder, const std::vector<std::string>& passes, std::int64_t size) {
  CompressOptions options;
  options.source = saved(folder, ffn_stack(8));
  options.target = folder + "/out.onnx";
  for (const std::string& pass : passes) options.recipe.steps.push_back(*parse_step(pass));
  options.budget.size = size;
  options.check = false;
  return options;
}

std::int64_t bytes_of(const std::string& path) { return static_cast<std::int64_t>(std::filesystem::file_size(path)); }

// Strict, full, and the file as it is.
std::int64_t size_with(const std::string& pass) {
  const std::string folder = test::temp_dir();
  CompressOptions options = job(folder, {pass}, 0);
  options.budget.size.reset();
  EXPECT_TRUE(compress(options));
  return bytes_of(options.target);
}

TEST(OwnSize, RanksAreChosenForTheFile) {
  const std::int64_t least = size_with("tie-layers:rank=0"), most = size_with("tie-layers:rank=2");
  ASSERT_LT(least, most);
  for (const std::int64_t size : {least + (most - least) / 2, most}) {
    const std::string folder = test::temp_dir();
    const auto report = compress(job(folder, {"remove-identity", "tie-layers"}, size));
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_LE(bytes_of(folder + "/out.onnx"), size);
    EXPECT_GT(bytes_of(folder + "/out.onnx"), least);
    EXPECT_THAT(report->recipe, HasSubstr("target-size"));
    EXPECT_THAT(report->recipe, testing::Not(HasSubstr("rtn-search")));
    ASSERT_TRUE(report->budget && report->budget->notes.size() == 1);
    EXPECT_THAT(report->budget->notes[0], HasSubstr("tie-layers chooses its own size"));
  }
}

TEST(OwnSize, ARatioGivesWayAndPaddedRanksFit) {
  const std::int64_t size = size_with("tie-layers:rank=1");
  for (const char* pass : {"tie-layers:ratio=0.9", "tie-layers:pad=true", "tie-layers:loops=4"}) {
    const std::string folder = test::temp_dir();
    const auto report = compress(job(folder, {pass}, size));
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_LE(bytes_of(folder + "/out.onnx"), size) << pass;
  }
}

TEST(OwnSize, WhatCannotBeIsSaidWithTheLeast) {
  const std::string folder = test::temp_dir();
  const auto report = compress(job(folder, {"tie-layers"}, size_with("tie-layers:rank=0") / 2));
  ASSERT_FALSE(report);
  EXPECT_THAT(report.error().message, HasSubstr("tie-layers makes the file"));
  EXPECT_THAT(report.error().message, HasSubstr("more loops"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/out.onnx"));
  const auto nothing = compress(job(test::temp_dir(), {"tie-layers:protect-first=7"}, 3000));
  ASSERT_FALSE(nothing);
  EXPECT_THAT(nothing.error().message, HasSubstr("finds nothing to do"));
}

// Ranks that are given, and quantizers, which choose formats as ever.
TEST(OwnSize, GivenRanksAndQuantizersAreLeftToTheFormats) {
  const auto model = test::model_from_text(ffn_stack(8));
  for (const std::vector<std::string>& passes : std::vector<std::vector<std::string>>{{"tie-layers:rank=1"},
                                                                                      {"tie-layers:ranks=*=1"},
                                                                                      {"tie-layers:target-size=4000"},
                                                                                      {"tie-layers", "rtn-search"},
                                                                                      {"remove-identity"},
                                                                                      {}}) {
    BudgetOptions options;
    options.before = model.get();
    options.goal.size = 5000;
    for (const std::string& pass : passes) options.recipe.steps.push_back(*parse_step(pass));
    const auto choice = choose_own_size(options);
    ASSERT_TRUE(choice) << choice.error().message;
    EXPECT_FALSE(choice->has_value());
  }
  BudgetOptions bits;
  bits.before = model.get();
  bits.goal.bits = 4;
  bits.recipe.steps.push_back(*parse_step("tie-layers"));
  EXPECT_FALSE(choose_own_size(bits)->has_value());
}

}  // namespace
}  // namespace onnxfold::own_size_test
