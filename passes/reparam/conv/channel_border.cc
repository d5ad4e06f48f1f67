#include "passes/reparam/conv/channel_border.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "analysis/structure/shape_arithmetic.h"
#include "ir/match.h"
#include "ir/numeric.h"
#include "passes/reparam/conv/border_rows.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

class Peeling {
 public:
  explicit Peeling(Value& value) : at_(&value) {}

  std::optional<ChannelBorder> run() {
    const auto dims = shapes_.dims(at_);
    if (!dims || dims->size() < 3 || !(*dims)[1]) return std::nullopt;
    channels_ = *(*dims)[1];
    layout_.resize(dims->size());
    std::iota(layout_.begin(), layout_.end(), std::size_t{0});
    rows_.resize(dims->size());
    border_.begin.assign(dims->size() - 2, 0);
    border_.end.assign(dims->size() - 2, 0);
    while (at_->producer() != nullptr && at_->producer()->output() == at_ && peel(*at_->producer())) {
    }
    const bool natural = std::is_sorted(layout_.begin(), layout_.end());
    const bool clean = std::all_of(rows_.begin(), rows_.end(), [](const auto& rows) { return rows.empty(); });
    if (!natural || !clean || border_.numbers.empty() || none(border_.begin, border_.end)) return std::nullopt;
    border_.inner = at_;
    return border_;
  }

 private:
  static bool none(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
    const auto zero = [](std::int64_t width) { return width == 0; };
    return std::all_of(a.begin(), a.end(), zero) && std::all_of(b.begin(), b.end(), zero);
  }

  // Steps from what `node` makes to what it was made of; false where this is not part of a border.
  bool peel(const Node& node) {
    if (node.is("Transpose")) return peel_transpose(node);
    if (node.is("Concat")) return peel_concat(node);
    if (node.is("ScatterND")) return peel_scatter(node);
    return node.is("Pad") && peel_pad(node);
  }

  bool peel_transpose(const Node& node) {
    const auto perm = node.attr_ints("perm");
    if (!perm || perm->size() != layout_.size()) return false;
    std::vector<std::size_t> before(layout_.size());
    for (std::size_t i = 0; i < before.size(); ++i) before[static_cast<std::size_t>((*perm)[i])] = layout_[i];
    layout_ = std::move(before);
    at_ = node.input(0);
    return true;
  }

  bool agree(const std::optional<Numbers>& numbers) {
    if (!numbers || (!border_.numbers.empty() && border_.numbers != *numbers)) return false;
    border_.numbers = *numbers;
    return true;
  }

  std::optional<Numbers> numbers_of(const Value* value) { return channel_numbers(value, layout_, channels_); }

  bool peel_concat(const Node& node) {
    const auto rank = static_cast<std::int64_t>(layout_.size());
    const std::int64_t given = node.attr_int("axis", 0);
    const std::int64_t position = given < 0 ? given + rank : given;
    if (position < 0 || position >= rank) return false;
    const std::size_t axis = layout_[static_cast<std::size_t>(position)];
    if (axis < 2) return false;
    Value* inner = nullptr;
    std::int64_t before = 0, after = 0;
    for (Value* part : node.inputs()) {
      const auto numbers = numbers_of(part);
      if (!numbers) {
        if (inner != nullptr) return false;
        inner = part;
        continue;
      }
      const auto dims = shapes_.dims(part);
      if (!agree(numbers) || !dims || !(*dims)[static_cast<std::size_t>(position)]) return false;
      (inner == nullptr ? before : after) += *(*dims)[static_cast<std::size_t>(position)];
    }
    if (inner == nullptr) return false;
    border_.begin[axis - 2] += before;
    border_.end[axis - 2] += after;
    rows_[axis].shrink(before, after);
    at_ = inner;
    return true;
  }

  bool peel_scatter(const Node& node) {
    if (node.attr_string("reduction", "none") != "none" || !shapes_.dims(node.input(0))) return false;
    const auto written = written_rows(node, layout_, shapes_);
    if (!written || written->axis < 2) return false;
    if (!agree(written->elementwise ? scattered_numbers(node, layout_, channels_) : numbers_of(node.input(2))))
      return false;
    rows_[written->axis].add(written->rows);
    at_ = node.input(0);
    return true;
  }

  // What Pad adds must have been overwritten, and nothing else.
  bool peel_pad(const Node& node) {
    const auto pads = node.opset() >= 11 ? shapes_.integers(node.input(1)) : node.attr_ints("pads");
    const std::size_t rank = layout_.size();
    if (!pads || pads->size() != 2 * rank || node.input(3) != nullptr) return false;
    const auto dims = shapes_.dims(at_);
    for (std::size_t i = 0; i < rank; ++i) {
      const std::size_t axis = layout_[i];
      const std::int64_t before = (*pads)[i], after = (*pads)[rank + i];
      if (before < 0 || after < 0 || (axis < 2 && before + after > 0)) return false;
      if (!rows_[axis].are(before, after, (*dims)[i])) return false;
    }
    for (std::size_t i = 0; i < rank; ++i) {
      if (layout_[i] < 2) continue;
      border_.begin[layout_[i] - 2] += (*pads)[i];
      border_.end[layout_[i] - 2] += (*pads)[rank + i];
      rows_[layout_[i]] = {};
    }
    at_ = node.input(0);
    return true;
  }

  Value* at_;
  ShapeArithmetic shapes_;
  std::int64_t channels_ = 0;
  std::vector<std::size_t> layout_;  // of at_: which axis of [N, C, ...] lies at each place
  std::vector<BorderRows> rows_;     // written over at_, by axis of [N, C, ...]
  ChannelBorder border_;
};

}  // namespace

std::optional<ChannelBorder> channel_border(Value& value) { return Peeling(value).run(); }

}  // namespace onnxfold
