// TIES: trim, elect sign, merge what agrees (Yadav et al., NeurIPS 2023).
//
// Of every task vector W_i - base the `density` largest magnitudes stay. The sign of an element is the sign of the
// weighted sum; the merged element is the weighted mean of those that have that sign. W = base + lambda * merged.
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "passes/merge/method.h"

namespace onnxfold {
namespace {

constexpr int kDigitBits = 16;
constexpr int kDigits = 64 / kDigitBits;

// The n-th largest magnitude of many, found without holding them: magnitudes are ordered like their bit patterns, of
// which every pass fixes sixteen more.
class NthLargest {
 public:
  explicit NthLargest(std::int64_t n) : wanted_(n), counts_(std::size_t{1} << kDigitBits) {}

  void add(double magnitude) {
    const auto bits = std::bit_cast<std::uint64_t>(magnitude);
    const int known = pass_ * kDigitBits;
    if (known > 0 && bits >> (64 - known) != prefix_) return;
    ++counts_[(bits >> (64 - known - kDigitBits)) & (counts_.size() - 1)];
  }
  // False when the value is known.
  bool end_pass() {
    std::size_t digit = counts_.size();
    std::int64_t above = above_;
    while (digit-- > 0 && above + counts_[digit] < wanted_) above += counts_[digit];
    above_ = above;
    prefix_ = (prefix_ << kDigitBits) | digit;
    std::fill(counts_.begin(), counts_.end(), 0);
    return ++pass_ < kDigits;
  }
  double value() const { return std::bit_cast<double>(prefix_); }
  std::int64_t above() const { return above_; }  // how many are larger

 private:
  std::int64_t wanted_, above_ = 0;
  std::vector<std::int64_t> counts_;
  std::uint64_t prefix_ = 0;
  int pass_ = 0;
};

// What stays of a task vector: magnitudes above the threshold, and of those at it the ones that come first.
struct Trim {
  bool all = false;
  double threshold = 0;
  std::int64_t at_threshold = 0;  // how many more of these stay

  double operator()(double x) {
    if (all || std::abs(x) > threshold) return x;
    if (at_threshold == 0 || std::abs(x) != threshold) return 0;
    --at_threshold;
    return x;
  }
};

std::int64_t kept_of(std::int64_t size, double density) {
  return static_cast<std::int64_t>(std::ceil(density * static_cast<double>(size)));
}

class Trims final : public WeightFacts {
 public:
  Trims(const MergeSettings& settings, std::size_t models, std::int64_t size)
      : kept_(kept_of(size, settings.density)), trims(models) {
    if (kept_ >= size) {
      for (Trim& each : trims) each.all = true;
    } else if (kept_ <= 0) {
      for (Trim& each : trims) each.threshold = HUGE_VAL;
    } else {
      search_ = true;
    }
  }

  void look(const MergeInput& part) override {
    if (search_ && searches_.empty()) searches_.assign(trims.size(), NthLargest(kept_));
    for (std::size_t m = 0; m < searches_.size(); ++m) {
      const Numbers& parent = part.parents[m];
      for (std::size_t i = 0; i < parent.size(); ++i) searches_[m].add(std::abs(parent[i] - part.base[i]));
    }
  }
  bool another_pass() override {
    bool more = false;
    for (std::size_t m = 0; m < searches_.size(); ++m) {
      more = searches_[m].end_pass();
      trims[m].threshold = searches_[m].value();
      trims[m].at_threshold = kept_ - searches_[m].above();
    }
    return more;
  }

  // The same at once for a weight that is there as a whole.
  void find(const MergeInput& whole) {
    Numbers magnitudes(whole.base.size());
    for (std::size_t m = 0; search_ && m < trims.size(); ++m) {
      const Numbers& parent = whole.parents[m];
      for (std::size_t i = 0; i < parent.size(); ++i) magnitudes[i] = std::abs(parent[i] - whole.base[i]);
      const auto nth = magnitudes.begin() + static_cast<std::ptrdiff_t>(kept_ - 1);
      std::nth_element(magnitudes.begin(), nth, magnitudes.end(), std::greater<>());
      const double threshold = trims[m].threshold = *nth;
      const auto above = std::count_if(magnitudes.begin(), nth, [=](double x) { return x > threshold; });
      trims[m].at_threshold = kept_ - above;
    }
  }

 private:
  std::int64_t kept_;
  bool search_ = false;
  std::vector<NthLargest> searches_;

 public:
  std::vector<Trim> trims;  // one a model; used up from part to part
};

}  // namespace

std::unique_ptr<WeightFacts> ties_facts(const MergeSettings& settings, std::size_t models, std::int64_t size) {
  return std::make_unique<Trims>(settings, models, size);
}

Result<Numbers> ties(const MergeInput& input, const MergeSettings& settings) {
  const std::size_t models = input.parents.size();
  Trims own(settings, input.facts == nullptr ? models : 0, static_cast<std::int64_t>(input.base.size()));
  if (input.facts == nullptr) own.find(input);
  std::vector<Trim>& trims = (input.facts == nullptr ? own : static_cast<Trims&>(*input.facts)).trims;
  Numbers result = input.base;
  Numbers tasks(models);
  for (std::size_t i = 0; i < result.size(); ++i) {
    double sum = 0;
    for (std::size_t m = 0; m < models; ++m) {
      tasks[m] = input.weights[m] * trims[m](input.parents[m][i] - input.base[i]);
      sum += tasks[m];
    }
    double merged = 0, agreeing = 0;
    for (std::size_t m = 0; m < models; ++m) {
      if (tasks[m] == 0 || (tasks[m] > 0) != (sum > 0)) continue;
      merged += tasks[m];
      agreeing += input.weights[m];
    }
    if (agreeing != 0) result[i] += settings.lambda * merged / agreeing;
  }
  return result;
}

}  // namespace onnxfold
