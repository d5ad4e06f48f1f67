// The registry, the files and the tests of passes agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "passes/registry.h"
#include "tests/support/paths.h"

namespace onnxfold::passes_test {
namespace {

namespace fs = std::filesystem;

std::string file_stem(std::string_view pass) {
  std::string stem(pass);
  std::replace(stem.begin(), stem.end(), '-', '_');
  return stem;
}

// Folder of `file` inside `family`: the family's own, or one of its kinds; relative to the folder of passes.
std::string folder_of(const std::string& family, const std::string& file) {
  if (fs::exists(test::source_path("passes/" + family + "/" + file))) return family;
  for (const auto& entry : fs::directory_iterator(test::source_path("passes/" + family))) {
    if (fs::exists(entry.path() / file)) return family + "/" + entry.path().filename().string();
  }
  return {};
}

TEST(Registry, EveryPassHasItsFileAndItsTest) {
  for (const PassInfo& info : all_passes()) {
    const std::string folder = folder_of(std::string(info.family), file_stem(info.name) + ".cc");
    EXPECT_FALSE(folder.empty()) << info.name;
    const std::string test = "tests/passes/" + folder + "/" + file_stem(info.name) + "_test.cc";
    EXPECT_TRUE(fs::exists(test::source_path(test))) << info.name;
  }
}

TEST(Registry, NamesAreUniqueAndFound) {
  std::set<std::string_view> names;
  for (const PassInfo& info : all_passes()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_EQ(find_pass(info.name), &info);
  }
  EXPECT_EQ(find_pass("no-such-pass"), nullptr);
  EXPECT_FALSE(names.empty());
}

TEST(Registry, EveryRowIsComplete) {
  for (const PassInfo& info : all_passes()) {
    EXPECT_FALSE(info.summary.empty()) << info.name;
    const auto defaults = PassOptions::parse(info.name, info.options, {});
    ASSERT_TRUE(defaults) << info.name << ": " << defaults.error().message;
    EXPECT_NE(info.make(*defaults), nullptr) << info.name;
    for (const OptionSpec& option : info.options) EXPECT_FALSE(option.help.empty()) << info.name << " " << option.name;
  }
}

TEST(Registry, ReadmeTableIsCurrent) {
  std::ifstream file(test::source_path("README.md"));
  const std::string readme((std::istreambuf_iterator<char>(file)), {});
  for (const PassInfo& info : all_passes()) {
    const char* exactness = info.exactness == Exactness::kExact   ? "exact"
                            : info.exactness == Exactness::kLossy ? "lossy"
                                                                  : "rounding";
    const std::string row = "| `" + std::string(info.name) + "` | " + std::string(info.family) + " | " + exactness +
                            " | " + std::string(info.summary) + " |";
    EXPECT_NE(readme.find(row), std::string::npos) << "README.md lacks: " << row;
  }
}

TEST(Registry, AMisspeltOptionIsRefusedWithTheNearest) {
  for (const PassInfo& info : all_passes()) {
    if (info.options.empty()) continue;
    const std::string wrong = std::string(info.options.front().name) + "x";
    const auto parsed = PassOptions::parse(info.name, info.options, {{wrong, "1"}});
    ASSERT_FALSE(parsed) << info.name;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
    EXPECT_NE(parsed.error().message.find(info.options.front().name), std::string::npos) << parsed.error().message;
  }
}

}  // namespace
}  // namespace onnxfold::passes_test
