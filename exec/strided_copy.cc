#include "exec/strided_copy.h"

#include <algorithm>

#include "exec/dispatch.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

struct Axis {
  std::int64_t dim, in, out;
};
using Axes = std::vector<Axis>;

// Drops axes of one and merges neighbours that are contiguous on both sides.
Axes simplified(const Dims& dims, const Dims& in_strides, const Dims& out_strides) {
  Axes axes;
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] == 1) continue;
    const Axis next{dims[i], in_strides[i], out_strides[i]};
    if (!axes.empty() && axes.back().in == next.in * next.dim && axes.back().out == next.out * next.dim) {
      axes.back() = {axes.back().dim * next.dim, next.in, next.out};
    } else {
      axes.push_back(next);
    }
  }
  if (axes.empty()) axes.push_back({1, 1, 1});
  return axes;
}

// Calls fn(in_offset, out_offset) for rows [begin, end) of the index space of `axes`.
template <typename F>
void for_rows(const Axes& axes, std::int64_t begin, std::int64_t end, F&& fn) {
  std::vector<std::int64_t> index(axes.size());
  std::int64_t in = 0, out = 0, rest = begin;
  for (std::size_t k = axes.size(); k-- > 0;) {
    index[k] = rest % axes[k].dim;
    rest /= axes[k].dim;
    in += index[k] * axes[k].in;
    out += index[k] * axes[k].out;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    fn(in, out);
    for (std::size_t k = axes.size(); k-- > 0;) {
      in += axes[k].in;
      out += axes[k].out;
      if (++index[k] < axes[k].dim) break;
      in -= axes[k].in * axes[k].dim;
      out -= axes[k].out * axes[k].dim;
      index[k] = 0;
    }
  }
}

std::int64_t volume(const Axes& axes) {
  std::int64_t count = 1;
  for (const Axis& axis : axes) count *= axis.dim;
  return count;
}

constexpr std::int64_t kTile = 32;  // of a blocked transpose: 32 x 32 elements of 8 bytes on both sides fit in L1

// Writes run along `inner`, reads run along `cross`: go through both in tiles so that neither side misses the cache.
template <typename T>
void copy_tiled(const Axes& others, const Axis& cross, const Axis& inner, const T* in, T* out) {
  const std::int64_t bands = (cross.dim + kTile - 1) / kTile;
  Axes rows = others;
  rows.push_back({bands, kTile * cross.in, kTile * cross.out});
  const std::int64_t work = std::max<std::int64_t>(1, kElementGrain / (kTile * inner.dim));
  const auto tile = [&](const T* source, T* target, std::int64_t height) {
    for (std::int64_t left = 0; left < inner.dim; left += kTile) {
      const std::int64_t width = std::min(kTile, inner.dim - left);
      for (std::int64_t y = 0; y < height; ++y) {
        const T* from = source + y * cross.in + left * inner.in;
        T* to = target + y * cross.out + left * inner.out;
        for (std::int64_t x = 0; x < width; ++x) to[x * inner.out] = from[x * inner.in];
      }
    }
  };
  parallel_for(volume(rows), work, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t band = begin % bands;
    for_rows(rows, begin, end, [&](std::int64_t in_offset, std::int64_t out_offset) {
      tile(in + in_offset, out + out_offset, std::min(kTile, cross.dim - band * kTile));
      band = band + 1 == bands ? 0 : band + 1;
    });
  });
}

template <typename T>
void copy_rows(const Axes& others, const Axis& inner, const T* in, T* out) {
  const std::int64_t work = std::max<std::int64_t>(1, kElementGrain / inner.dim);
  parallel_for(volume(others), work, [&](std::int64_t begin, std::int64_t end) {
    for_rows(others, begin, end, [&](std::int64_t in_offset, std::int64_t out_offset) {
      const T* from = in + in_offset;
      T* to = out + out_offset;
      if (inner.in == 1 && inner.out == 1) {
        std::copy_n(from, inner.dim, to);
      } else if (inner.in == 0 && inner.out == 1) {
        std::fill_n(to, inner.dim, *from);
      } else {
        for (std::int64_t i = 0; i < inner.dim; ++i) to[i * inner.out] = from[i * inner.in];
      }
    });
  });
}

template <typename T>
void copy_axes(Axes axes, const T* in, T* out) {
  const Axis inner = axes.back();
  axes.pop_back();
  // One long run has no rows to share among threads: cut it.
  if (axes.empty() && inner.dim > 2 * kElementGrain) {
    parallel_for(inner.dim, kElementGrain, [&](std::int64_t begin, std::int64_t end) {
      copy_rows<T>({}, {end - begin, inner.in, inner.out}, in + begin * inner.in, out + begin * inner.out);
    });
    return;
  }
  const auto unit = std::find_if(axes.begin(), axes.end(), [](const Axis& axis) { return axis.in == 1; });
  if (inner.in > 1 && inner.dim >= 4 && unit != axes.end() && unit->dim >= 4) {
    const Axis cross = *unit;
    axes.erase(unit);
    copy_tiled(axes, cross, inner, in, out);
  } else {
    copy_rows(axes, inner, in, out);
  }
}

std::size_t width_of(Storage storage) {
  return storage == Storage::kString ? sizeof(std::string) : storage_bytes(storage);
}

}  // namespace

void strided_copy(Storage storage, const Dims& dims, const void* in, const Dims& in_strides, void* out,
                  const Dims& out_strides) {
  if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return;
  const Axes axes = simplified(dims, in_strides, out_strides);
  visit_movable(storage, [&]<typename T>(Tag<T>) { copy_axes(axes, static_cast<const T*>(in), static_cast<T*>(out)); });
}

const void* element_at(Storage storage, const void* data, std::int64_t offset) {
  return static_cast<const char*>(data) + offset * static_cast<std::int64_t>(width_of(storage));
}

void* element_at(Storage storage, void* data, std::int64_t offset) {
  return static_cast<char*>(data) + offset * static_cast<std::int64_t>(width_of(storage));
}

void copy_elements(Storage storage, const void* in, std::int64_t in_offset, void* out, std::int64_t out_offset,
                   std::int64_t count) {
  visit_movable(storage, [&]<typename T>(Tag<T>) {
    std::copy_n(static_cast<const T*>(in) + in_offset, count, static_cast<T*>(out) + out_offset);
  });
}

}  // namespace onnxfold
