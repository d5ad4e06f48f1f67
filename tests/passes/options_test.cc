#include <gmock/gmock.h>

#include "passes/pass.h"

namespace onnxfold::options_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr OptionSpec kSpecs[] = {
    {"bits", OptionType::kInt, "4", "", "2..8"},  {"damping", OptionType::kFloat, "0.01", "", "0.."},
    {"symmetric", OptionType::kBool, "true", ""}, {"form", OptionType::kChoice, "qdq", "", "qdq|matmulnbits"},
    {"include", OptionType::kPatterns, "*", ""},
};

std::string error_of(const std::map<std::string, std::string>& given) {
  const auto options = PassOptions::parse("rtn", kSpecs, given);
  return options ? "" : options.error().message;
}

TEST(PassOptions, HasDefaults) {
  const auto options = PassOptions::parse("rtn", kSpecs, {});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->integer("bits"), 4);
  EXPECT_EQ(options->number("damping"), 0.01);
  EXPECT_TRUE(options->flag("symmetric"));
  EXPECT_EQ(options->text("form"), "qdq");
  EXPECT_THAT(options->patterns("include"), ElementsAre("*"));
}

TEST(PassOptions, TakesWhatIsGiven) {
  const auto options = PassOptions::parse(
      "rtn", kSpecs, {{"bits", "8"}, {"symmetric", "off"}, {"form", "matmulnbits"}, {"include", "a*;b"}});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->integer("bits"), 8);
  EXPECT_FALSE(options->flag("symmetric"));
  EXPECT_THAT(options->patterns("include"), ElementsAre("a*", "b"));
}

TEST(PassOptions, NamesTheNearestOption) { EXPECT_THAT(error_of({{"bit", "4"}}), HasSubstr("did you mean 'bits'?")); }

TEST(PassOptions, ListsAllOptionsWhenNoneIsNear) {
  EXPECT_THAT(error_of({{"granularity", "1"}}), HasSubstr("bits, damping, symmetric, form, include"));
}

TEST(PassOptions, RefusesBadValues) {
  EXPECT_THAT(error_of({{"bits", "four"}}), HasSubstr("'four', expected an integer in 2..8"));
  EXPECT_THAT(error_of({{"bits", "9"}}), HasSubstr("2..8"));
  EXPECT_THAT(error_of({{"bits", "4x"}}), HasSubstr("'4x'"));
  EXPECT_THAT(error_of({{"bits", ""}}), HasSubstr("an integer"));
  EXPECT_THAT(error_of({{"damping", "-1"}}), HasSubstr("a number in 0.."));
  EXPECT_THAT(error_of({{"damping", "nan"}}), HasSubstr("a number"));
  EXPECT_THAT(error_of({{"symmetric", "perhaps"}}), HasSubstr("true or false"));
  EXPECT_THAT(error_of({{"form", "gguf"}}), HasSubstr("qdq|matmulnbits"));
}

TEST(GlobMatch, Matches) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("layer.*.weight", "layer.12.weight"));
  EXPECT_TRUE(glob_match("a?c", "abc"));
  EXPECT_TRUE(glob_match("[a-c]x", "bx"));
  EXPECT_TRUE(glob_match("[!0-9]*", "x1"));
  EXPECT_TRUE(glob_match("*ab*ab", "abxabab"));
  EXPECT_TRUE(glob_match("[x", "[x"));
}

TEST(GlobMatch, MatchesTheWholeName) {
  EXPECT_FALSE(glob_match("abc", "abcd"));
  EXPECT_FALSE(glob_match("bc", "abc"));
  EXPECT_FALSE(glob_match("a?c", "ac"));
  EXPECT_FALSE(glob_match("[a-c]x", "dx"));
  EXPECT_FALSE(glob_match("[!a]b", "ab"));
  EXPECT_FALSE(glob_match("", "a"));
}

TEST(EditDistance, Counts) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("same", "same"), 0U);
}

TEST(Tolerance, FollowsExactness) {
  EXPECT_EQ(tolerance(Exactness::kExact, false), 0);
  EXPECT_EQ(tolerance(Exactness::kRounding, false), 1e-5);
  EXPECT_EQ(tolerance(Exactness::kRounding, true), 1e-12);
}

}  // namespace
}  // namespace onnxfold::options_test
