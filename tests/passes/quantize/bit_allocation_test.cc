#include "passes/quantize/bit_allocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace onnxfold::bit_allocation_test {
namespace {

using Items = std::vector<std::vector<FormatChoice>>;

struct Total {
  std::int64_t bytes = 0;
  double damage = 0;
};

Total total(const Items& items, const std::vector<std::size_t>& chosen) {
  Total sum;
  for (std::size_t i = 0; i < items.size(); ++i) {
    sum.bytes += items[i][chosen[i]].bytes;
    sum.damage += items[i][chosen[i]].damage;
  }
  return sum;
}

// Tries everything.
double least_damage(const Items& items, std::int64_t budget) {
  std::vector<std::size_t> chosen(items.size(), 0);
  double least = HUGE_VAL;
  for (;;) {
    const Total sum = total(items, chosen);
    if (sum.bytes <= budget) least = std::min(least, sum.damage);
    std::size_t i = 0;
    while (i < items.size() && ++chosen[i] == items[i].size()) chosen[i++] = 0;
    if (i == items.size()) return least;
  }
}

TEST(BitAllocation, SpendsWhereItHelpsMost) {
  const Items items = {{{2, 10}, {4, 1}}, {{2, 3}, {4, 2}}};
  EXPECT_EQ(*allocate_formats(items, 6), (std::vector<std::size_t>{1, 0}));
  EXPECT_EQ(*allocate_formats(items, 8), (std::vector<std::size_t>{1, 1}));
  EXPECT_EQ(*allocate_formats(items, 4), (std::vector<std::size_t>{0, 0}));
}

TEST(BitAllocation, WhatCostsMoreAndDoesNotHelpIsNotTaken) {
  const Items items = {{{2, 1}, {4, 1}, {3, 5}}};
  EXPECT_EQ(*allocate_formats(items, 100), std::vector<std::size_t>{0});
}

TEST(BitAllocation, AChoiceOffTheHullFillsWhatIsLeft) {
  // The hull goes from 0 to 10 bytes in one step; 4 bytes are only good as a rest.
  const Items items = {{{0, 10}, {4, 9}, {10, 0}}};
  EXPECT_EQ(*allocate_formats(items, 5), std::vector<std::size_t>{1});
}

TEST(BitAllocation, TooSmallABudgetIsRefusedWithTheLeast) {
  const auto chosen = allocate_formats({{{5, 1}}, {{7, 1}, {6, 2}}}, 10);
  ASSERT_FALSE(chosen);
  EXPECT_EQ(chosen.error().code, Code::kInvalidArgument);
  EXPECT_NE(chosen.error().message.find("11"), std::string::npos) << chosen.error().message;
}

TEST(BitAllocation, IsNearTheBestOfAllCombinations) {
  std::mt19937_64 random(1);
  std::uniform_int_distribution<std::int64_t> bytes(1, 40);
  std::exponential_distribution<double> damage(1);
  for (int round = 0; round < 60; ++round) {
    Items items(5);
    std::int64_t smallest = 0, largest = 0;
    double step = 0;
    for (auto& choices : items) {
      for (int c = 0; c < 4; ++c) choices.push_back({bytes(random), damage(random)});
      const auto [least, most] =
          std::minmax_element(choices.begin(), choices.end(), [](auto& a, auto& b) { return a.bytes < b.bytes; });
      smallest += least->bytes;
      largest += most->bytes;
      const auto [good, bad] =
          std::minmax_element(choices.begin(), choices.end(), [](auto& a, auto& b) { return a.damage < b.damage; });
      step = std::max(step, bad->damage - good->damage);
    }
    const std::int64_t budget = smallest + (largest - smallest) * (round % 6) / 5;
    const auto chosen = allocate_formats(items, budget);
    ASSERT_TRUE(chosen);
    const Total sum = total(items, *chosen);
    EXPECT_LE(sum.bytes, budget);
    EXPECT_LE(sum.damage, least_damage(items, budget) + step);
  }
}

}  // namespace
}  // namespace onnxfold::bit_allocation_test
