// NonMaxSuppression.
#include <algorithm>
#include <numeric>

#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

struct Box {
  double y1, x1, y2, x2;
  double area() const { return (y2 - y1) * (x2 - x1); }
};

Box read_box(const double* from, bool center) {
  if (center) return {from[1] - from[3] / 2, from[0] - from[2] / 2, from[1] + from[3] / 2, from[0] + from[2] / 2};
  return {std::min(from[0], from[2]), std::min(from[1], from[3]), std::max(from[0], from[2]),
          std::max(from[1], from[3])};
}

double overlap(const Box& a, const Box& b) {
  const double height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1),
               width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  if (height <= 0 || width <= 0 || a.area() <= 0 || b.area() <= 0) return 0;
  return height * width / (a.area() + b.area() - height * width);
}

Result<double> scalar_or(const KernelContext& ctx, std::size_t i, double fallback) {
  if (!ctx.has(i)) return fallback;
  OF_ASSIGN(const std::vector<double> values, to_doubles(ctx.in(i)));
  if (values.size() != 1) return ctx.invalid(fmt::format("input {} must be one number", i));
  return values[0];
}

struct Limits {
  std::int64_t boxes;
  double overlap, score;
};

// Boxes of one class, best first, each kept unless it overlaps a kept one too much. Equal scores: lower index first.
std::vector<std::int64_t> keep_best(const std::vector<Box>& boxes, const double* scores, const Limits& limits) {
  std::vector<std::int64_t> order;
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    if (scores[i] > limits.score) order.push_back(static_cast<std::int64_t>(i));
  }
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
  std::vector<std::int64_t> kept;
  for (const std::int64_t i : order) {
    if (static_cast<std::int64_t>(kept.size()) >= limits.boxes) break;
    const bool free = std::none_of(kept.begin(), kept.end(), [&](std::int64_t k) {
      return overlap(boxes[static_cast<std::size_t>(i)], boxes[static_cast<std::size_t>(k)]) > limits.overlap;
    });
    if (free) kept.push_back(i);
  }
  return kept;
}

Status non_max_suppression(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array& boxes = ctx.in(0);
  const Array& scores = ctx.in(1);
  if (boxes.rank() != 3 || scores.rank() != 3 || boxes.dim(2) != 4 || boxes.dim(0) != scores.dim(0) ||
      boxes.dim(1) != scores.dim(2)) {
    return ctx.invalid("boxes must be [N, boxes, 4] and scores [N, classes, boxes]");
  }
  OF_ASSIGN(const double most, scalar_or(ctx, 2, 0));
  OF_ASSIGN(const double most_overlap, scalar_or(ctx, 3, 0));
  OF_ASSIGN(const double least_score, scalar_or(ctx, 4, -std::numeric_limits<double>::infinity()));
  const Limits limits{static_cast<std::int64_t>(std::clamp(most, 0.0, 1e15)), most_overlap, least_score};
  const bool center = ctx.attr("center_point_box", std::int64_t{0}) != 0;
  OF_ASSIGN(const std::vector<double> corners, to_doubles(boxes));
  OF_ASSIGN(const std::vector<double> values, to_doubles(scores));
  const std::int64_t count = boxes.dim(1), classes = scores.dim(1);
  std::vector<std::int64_t> rows;
  for (std::int64_t n = 0; n < boxes.dim(0); ++n) {
    std::vector<Box> mine;
    for (std::int64_t i = 0; i < count; ++i) mine.push_back(read_box(corners.data() + (n * count + i) * 4, center));
    for (std::int64_t c = 0; c < classes; ++c) {
      for (const std::int64_t i : keep_best(mine, values.data() + (n * classes + c) * count, limits)) {
        rows.insert(rows.end(), {n, c, i});
      }
    }
  }
  Array& out = ctx.out(0, DType::kInt64, {static_cast<std::int64_t>(rows.size() / 3), 3});
  std::copy(rows.begin(), rows.end(), out.mutable_data<std::int64_t>());
  return {};
}

}  // namespace

KernelRows detection_kernels() {
  static const KernelRow kRows[] = {{"NonMaxSuppression", 10, non_max_suppression}};
  return kRows;
}

}  // namespace onnxfold
