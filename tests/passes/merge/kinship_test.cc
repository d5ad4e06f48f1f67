// Fine-tunes of one base are told from strangers by their weights.
#include "passes/merge/kinship.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "analysis/structure/correspondence.h"
#include "passes/merge/method.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::kinship_test {
namespace {

// Every matrix but those named with noise of `share` of its own size; those named are new.
std::unique_ptr<Model> tuned(const Model& base, double share, std::uint32_t seed,
                             const std::vector<std::string>& fresh = {}) {
  auto model = base.clone();
  for (const Value* value : base.graph().initializers()) {
    const Tensor& tensor = *value->initializer();
    if (!is_float(tensor.dtype()) || tensor.size() < 2) continue;
    const std::vector<double> old = *to_doubles(tensor);
    double squares = 0;
    for (const double x : old) squares += x * x;
    const double size = std::sqrt(squares / static_cast<double>(old.size()));
    Matrix made = test::random_matrix(1, tensor.size(), ++seed);
    const bool is_new = std::find(fresh.begin(), fresh.end(), value->name()) != fresh.end();
    for (std::size_t i = 0; i < old.size() && !is_new; ++i) made.data[i] = old[i] + share * size * made.data[i];
    test::set_weight(*model, value->name(), made);
  }
  return model;
}

TEST(Kinship, FineTunesAreAlike) {
  const auto base = test::transformer();
  const Kinship kin = *kinship(*tuned(*base, 0.05, 1), *tuned(*base, 0.05, 1000));
  EXPECT_TRUE(kin.tuned_from_one_base());
  EXPECT_EQ(kin.alike, kin.compared);
  EXPECT_GT(kin.cosine, 0.98);
}

TEST(Kinship, StrangersAndDisguisedCopiesAreNot) {
  const auto base = test::transformer();
  EXPECT_FALSE(kinship(*tuned(*base, 100, 1), *base)->tuned_from_one_base());
  const Kinship kin = *kinship(*test::disguised(*base, false), *base);
  EXPECT_FALSE(kin.tuned_from_one_base());
  EXPECT_LT(kin.cosine, 0.5);
}

TEST(Kinship, ANewHeadMayStandOut) {
  const auto base = test::transformer();
  const std::string head = base->graph().outputs()[0]->producer()->input(1)->name();
  const Kinship kin = *kinship(*tuned(*base, 0.05, 1, {head}), *base);
  EXPECT_EQ(kin.alike + 1, kin.compared);
  EXPECT_TRUE(kin.tuned_from_one_base());
}

TEST(Kinship, EqualWeightsSayNothing) {
  const auto base = test::transformer();
  const Kinship kin = *kinship(*base, *base);
  EXPECT_EQ(kin.compared, 0);
  EXPECT_FALSE(kin.tuned_from_one_base());
}

PassOptions options_of(const MergeMethod& method, const std::map<std::string, std::string>& given) {
  return *PassOptions::parse(method.name, method.options, given);
}

TEST(Kinship, AlignKeepsFineTunesInTheirOrder) {
  const auto base = test::transformer();
  const auto one = tuned(*base, 0.05, 1), two = tuned(*base, 0.05, 1000);
  for (const char* name : {"align", "permute"}) {
    const MergeMethod& method = *find_merge_method(name);
    for (const bool stays : {true, false}) {
      WholeMergeInput input;
      input.parents.push_back(one->clone());
      input.parents.push_back(two->clone());
      input.weights = {1, 1};
      const auto merged =
          method.whole(std::move(input), options_of(method, {{"repair", "none"}, {"tuned", stays ? "stay" : "align"}}));
      ASSERT_TRUE(merged.has_value()) << merged.error().message;
      const double moved = test::largest_difference(*merged->aligned[0], *one);
      if (stays) {
        EXPECT_EQ(moved, 0);
        EXPECT_THAT(merged->notes, testing::Contains(testing::HasSubstr("tuned from one base")));
      } else if (std::string(name) == "align") {
        EXPECT_GT(moved, 0);  // a rotation that brings them closer
      }
    }
  }
}

}  // namespace
}  // namespace onnxfold::kinship_test
