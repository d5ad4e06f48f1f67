#include "passes/quantize/bit_allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace onnxfold {
namespace {

using Choices = std::vector<FormatChoice>;

// Damage saved for each byte when going from one choice to a larger one.
double gain(const FormatChoice& from, const FormatChoice& to) {
  return (from.damage - to.damage) / static_cast<double>(to.bytes - from.bytes);
}

// Indices of the choices on the lower convex hull, by growing size and falling damage.
std::vector<std::size_t> lower_hull(const Choices& choices) {
  std::vector<std::size_t> order(choices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const FormatChoice &x = choices[a], &y = choices[b];
    return x.bytes != y.bytes ? x.bytes < y.bytes : x.damage < y.damage;
  });
  std::vector<std::size_t> hull;
  for (const std::size_t next : order) {
    if (!hull.empty() && !(choices[next].damage < choices[hull.back()].damage)) continue;
    if (!hull.empty() && choices[next].bytes == choices[hull.back()].bytes) continue;
    while (hull.size() > 1 &&
           gain(choices[hull[hull.size() - 2]], choices[hull.back()]) <= gain(choices[hull.back()], choices[next])) {
      hull.pop_back();
    }
    hull.push_back(next);
  }
  return hull;
}

class Allocation {
 public:
  Allocation(const std::vector<Choices>& items, std::int64_t budget) : items_(items), left_(budget) {
    for (const Choices& choices : items) {
      hulls_.push_back(lower_hull(choices));
      chosen_.push_back(hulls_.back().front());
      left_ -= choices[chosen_.back()].bytes;
    }
  }

  std::int64_t left() const { return left_; }

  // Steps along the hulls, the most damage for each byte first; an item whose next step does not fit stands still.
  void climb() {
    std::vector<std::size_t> at(items_.size(), 0);
    std::vector<bool> stuck(items_.size(), false);
    for (;;) {
      std::size_t best = items_.size();
      double most = 0;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        if (stuck[i] || at[i] + 1 == hulls_[i].size()) continue;
        const double here = gain(items_[i][hulls_[i][at[i]]], items_[i][hulls_[i][at[i] + 1]]);
        if (!(here > most)) continue;
        most = here;
        best = i;
      }
      if (best == items_.size()) return;
      const std::size_t next = hulls_[best][at[best] + 1];
      if (cost(best, next) > left_) {
        stuck[best] = true;
        continue;
      }
      choose(best, next);
      ++at[best];
    }
  }

  // Single changes to any choice, hull or not, the most damage first.
  void fill() {
    for (;;) {
      std::size_t item = items_.size(), to = 0;
      double most = 0;
      for (std::size_t i = 0; i < items_.size(); ++i) {
        for (std::size_t c = 0; c < items_[i].size(); ++c) {
          const double saved = items_[i][chosen_[i]].damage - items_[i][c].damage;
          if (!(saved > most) || cost(i, c) > left_) continue;
          most = saved;
          item = i;
          to = c;
        }
      }
      if (item == items_.size()) return;
      choose(item, to);
    }
  }

  std::vector<std::size_t> take() { return std::move(chosen_); }

 private:
  std::int64_t cost(std::size_t item, std::size_t to) const {
    return items_[item][to].bytes - items_[item][chosen_[item]].bytes;
  }
  void choose(std::size_t item, std::size_t to) {
    left_ -= cost(item, to);
    chosen_[item] = to;
  }

  const std::vector<Choices>& items_;
  std::vector<std::vector<std::size_t>> hulls_;
  std::vector<std::size_t> chosen_;
  std::int64_t left_;
};

}  // namespace

Result<std::vector<std::size_t>> allocate_formats(const std::vector<std::vector<FormatChoice>>& items,
                                                  std::int64_t budget) {
  Allocation allocation(items, budget);
  if (allocation.left() < 0) {
    return fail(Code::kInvalidArgument, fmt::format("the weights need at least {} bytes, {} more than there are",
                                                    budget - allocation.left(), -allocation.left()));
  }
  allocation.climb();
  allocation.fill();
  return allocation.take();
}

}  // namespace onnxfold
