#include "passes/registry.h"

#include <gtest/gtest.h>

#include <set>

namespace onnxfold::registry_test {
namespace {

TEST(Registry, FamiliesStandTogether) {
  std::set<std::string_view> families;
  std::string_view family;
  for (const PassInfo& info : all_passes()) {
    if (info.family == family) continue;
    EXPECT_TRUE(families.insert(info.family).second) << "family " << info.family << " is in two places";
    family = info.family;
  }
}

TEST(Registry, FindsByNameAndNearest) {
  ASSERT_NE(find_pass("remove-dead-nodes"), nullptr);
  EXPECT_EQ(find_pass("no-such-pass"), nullptr);
  EXPECT_EQ(nearest_pass("remove-dead-node"), "remove-dead-nodes");
  EXPECT_EQ(nearest_pass("qqqqqqqqqqqqqqqqqqq"), "");
}

}  // namespace
}  // namespace onnxfold::registry_test
