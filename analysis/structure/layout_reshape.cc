#include "analysis/structure/layout_steps.h"

namespace onnxfold::layout_steps {
namespace {

// Takes factors from the right end of `pool` whose product is `size`, splitting one where it has to.
std::optional<Factors> take_right(Factors& pool, std::int64_t size) {
  Factors taken;
  std::int64_t need = size;
  while (need != 1) {
    if (pool.empty() || need < 1) return {};
    AxisFactor& last = pool.back();
    if (last.size == 0) {
      if (need != size) return {};
      taken.insert(taken.begin(), {need, false, 0});  // an unknown extent turns out to be `size`
      pool.pop_back();
      return taken;
    }
    if (need % last.size == 0) {
      need /= last.size;
      taken.insert(taken.begin(), last);
      pool.pop_back();
    } else if (last.size % need == 0) {
      taken.insert(taken.begin(), {need, last.channel, last.stride});
      last.size /= need;
      last.stride *= need;
      need = 1;
    } else {
      return {};
    }
  }
  return taken;
}

// The same from the left end.
std::optional<Factors> take_left(Factors& pool, std::int64_t size) {
  Factors taken;
  std::int64_t need = size;
  while (need != 1) {
    if (pool.empty() || need < 1) return {};
    AxisFactor& first = pool.front();
    if (first.size == 0 || need % first.size == 0) {
      if (first.size == 0 && need != size) return {};
      taken.push_back(first.size == 0 ? AxisFactor{need, false, 0} : first);
      need = first.size == 0 ? 1 : need / first.size;
      pool.erase(pool.begin());
    } else if (first.size % need == 0) {
      first.size /= need;
      taken.push_back({need, first.channel, first.stride * first.size});
      need = 1;
    } else {
      return {};
    }
  }
  return taken;
}

// Axes 0..count-1, the last of which has an unknown extent and takes what the others leave.
bool share_from_left(Factors pool, std::size_t count, const std::vector<std::optional<std::int64_t>>& dims,
                     bool inferred, std::vector<Factors>& axes) {
  for (std::size_t i = 0; i + 1 < count; ++i) {
    if (dims[i]) {
      const auto taken = take_left(pool, *dims[i]);
      if (!taken) return false;
      axes[i] = *taken;
    } else if (!pool.empty() && !pool.front().channel) {
      axes[i] = {pool.front()};
      pool.erase(pool.begin());
    } else if (inferred && i < 2) {
      continue;  // batch and positions were one axis
    } else {
      return false;  // two unknown extents share channels
    }
  }
  axes[count - 1] = pool;
  return true;
}

Step regroup(HeadLayout layout, const std::vector<std::optional<std::int64_t>>& dims,
             std::optional<std::size_t> inferred) {
  Factors pool;
  for (const Factors& axis : layout.axes) {
    for (const AxisFactor& factor : axis) {
      if (factor.size != 1) pool.push_back(factor);
    }
  }
  std::vector<Factors> axes(dims.size());
  for (std::size_t i = dims.size(); i-- > 0;) {
    if (i == 0) {
      if (dims[0] && extent(pool) != 0 && extent(pool) != *dims[0]) return {};
      axes[0] = pool;
      pool.clear();
    } else if (dims[i]) {
      const auto taken = take_right(pool, *dims[i]);
      if (!taken) return {};
      axes[i] = *taken;
    } else if (pool.empty()) {
      continue;
    } else if (!pool.back().channel) {
      axes[i] = {pool.back()};
      pool.pop_back();
    } else {
      if (!share_from_left(pool, i + 1, dims, inferred == i, axes)) return {};
      pool.clear();
      break;
    }
  }
  layout.axes = axes;
  return layout;
}

}  // namespace

Step reshape(const HeadLayout& layout, const Node& node, ShapeArithmetic& numbers) {
  const auto dims = numbers.target_dims(node);
  return dims && !dims->empty() ? regroup(layout, *dims, numbers.inferred_axis(node)) : std::nullopt;
}

}  // namespace onnxfold::layout_steps
