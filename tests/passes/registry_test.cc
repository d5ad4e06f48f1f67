#include "passes/registry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "tests/support/paths.h"

namespace onnxfold {
namespace {

TEST(Registry, NamesAreUniqueAndFamiliesTogether) {
  std::set<std::string_view> names, families;
  std::string_view family;
  for (const PassInfo& info : all_passes()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    if (info.family == family) continue;
    EXPECT_TRUE(families.insert(info.family).second) << "family " << info.family << " is in two places";
    family = info.family;
  }
}

TEST(Registry, EveryPassHasItsFileAndItsTest) {
  for (const PassInfo& info : all_passes()) {
    std::string file(info.name);
    std::replace(file.begin(), file.end(), '-', '_');
    const std::string stem = "passes/" + std::string(info.family) + "/" + file;
    EXPECT_TRUE(std::filesystem::exists(test::source_path(stem + ".cc"))) << stem;
    EXPECT_TRUE(std::filesystem::exists(test::source_path("tests/" + stem + "_test.cc"))) << stem;
  }
}

TEST(Registry, DefaultsOfOptionsAreValid) {
  for (const PassInfo& info : all_passes()) {
    for (const OptionSpec& spec : info.options) {
      EXPECT_FALSE(spec.help.empty()) << info.name << " " << spec.name;
      if (spec.type == OptionType::kString || spec.type == OptionType::kPatterns) continue;
      const auto parsed =
          PassOptions::parse(info.name, info.options, {{std::string(spec.name), std::string(spec.fallback)}});
      EXPECT_TRUE(parsed) << parsed.error().message;
    }
    EXPECT_FALSE(info.summary.empty()) << info.name;
    const auto defaults = PassOptions::parse(info.name, info.options, {});
    ASSERT_TRUE(defaults);
    EXPECT_NE(info.make(*defaults), nullptr) << info.name;
  }
}

TEST(Registry, FindsByNameAndNearest) {
  ASSERT_NE(find_pass("remove-dead-nodes"), nullptr);
  EXPECT_EQ(find_pass("no-such-pass"), nullptr);
  EXPECT_EQ(nearest_pass("remove-dead-node"), "remove-dead-nodes");
  EXPECT_EQ(nearest_pass("qqqqqqqqqqqqqqqqqqq"), "");
}

}  // namespace
}  // namespace onnxfold
