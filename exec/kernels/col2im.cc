// Col2Im: adds up columns of blocks where the blocks lie in the image.
#include <algorithm>

#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

struct Geometry {
  Dims image, block, dilations, pads, strides, counts;  // counts: block positions per axis
};

Result<Geometry> geometry_of(const KernelContext& ctx) {
  OF_TRY(ctx.need(3));
  Geometry g;
  OF_ASSIGN(g.image, to_int64s(ctx.in(1)));
  OF_ASSIGN(g.block, to_int64s(ctx.in(2)));
  const std::size_t rank = g.image.size();
  g.dilations = ctx.node().attr_ints("dilations").value_or(Dims(rank, 1));
  g.strides = ctx.node().attr_ints("strides").value_or(Dims(rank, 1));
  g.pads = ctx.node().attr_ints("pads").value_or(Dims(2 * rank, 0));
  if (g.block.size() != rank || g.dilations.size() != rank || g.strides.size() != rank || g.pads.size() != 2 * rank) {
    return ctx.invalid("image_shape, block_shape and attributes differ in length");
  }
  for (std::size_t i = 0; i < rank; ++i) {
    constexpr std::int64_t kLargest = std::int64_t{1} << 30;  // keeps the products below far from overflow
    for (const std::int64_t value : {g.image[i], g.block[i], g.dilations[i], g.strides[i]}) {
      if (value < 1 || value > kLargest) return ctx.invalid("a size is out of range");
    }
    if (std::abs(g.pads[i]) > kLargest || std::abs(g.pads[rank + i]) > kLargest)
      return ctx.invalid("pads are out of range");
    const std::int64_t room = g.image[i] + g.pads[i] + g.pads[rank + i] - g.dilations[i] * (g.block[i] - 1) - 1;
    if (room < 0) return ctx.invalid("the block is larger than the image");
    g.counts.push_back(room / g.strides[i] + 1);
  }
  return g;
}

bool next_index(Dims& index, const Dims& dims) {
  for (std::size_t k = dims.size(); k-- > 0;) {
    if (++index[k] < dims[k]) return true;
    index[k] = 0;
  }
  return false;
}

// One channel: columns [block elements, positions] added into an image.
template <typename T>
void add_blocks(const Geometry& g, const T* columns, double* image) {
  Dims element(g.block.size(), 0);
  do {
    Dims place(g.block.size(), 0);
    do {
      std::int64_t at = 0;
      bool inside = true;
      for (std::size_t k = 0; k < place.size(); ++k) {
        const std::int64_t x = place[k] * g.strides[k] + element[k] * g.dilations[k] - g.pads[k];
        inside = inside && x >= 0 && x < g.image[k];
        at = at * g.image[k] + x;
      }
      if (inside) image[at] += static_cast<double>(*columns);
      ++columns;
    } while (next_index(place, g.counts));
  } while (next_index(element, g.block));
}

Status col2im(KernelContext& ctx) {
  OF_ASSIGN(const Geometry g, geometry_of(ctx));
  const Array data = ctx.in(0);
  if (data.rank() != 3) return ctx.invalid("input must be [N, C * block, L]");
  const std::int64_t batches = data.dim(0);
  std::int64_t block = 1, positions = 1;
  for (std::size_t i = 0; i < g.block.size(); ++i) {
    if (__builtin_mul_overflow(block, g.block[i], &block) ||
        __builtin_mul_overflow(positions, g.counts[i], &positions)) {
      return ctx.invalid("sizes overflow");
    }
  }
  if (data.dim(1) % block != 0 || data.dim(2) != positions)
    return ctx.invalid("input does not fit block and image shape");
  const std::int64_t channels = data.dim(1) / block;
  Dims dims = {batches, channels};
  dims.insert(dims.end(), g.image.begin(), g.image.end());
  Array& out = ctx.out(0, data.dtype(), dims);
  const std::int64_t pixels = batches * channels == 0 ? 0 : out.size() / (batches * channels);
  const bool done = visit_numeric(data.storage(), [&]<typename T>(Tag<T>) {
    std::vector<double> image(static_cast<std::size_t>(pixels));
    for (std::int64_t plane = 0; plane < batches * channels; ++plane) {
      std::fill(image.begin(), image.end(), 0.0);
      add_blocks(g, data.data<T>() + plane * block * positions, image.data());
      std::transform(image.begin(), image.end(), out.mutable_data<T>() + plane * pixels,
                     [](double value) { return static_cast<T>(value); });
    }
  });
  if (!done) return ctx.unsupported("this element type");
  return {};
}

}  // namespace

KernelRows col2im_kernels() {
  static const KernelRow kRows[] = {{"Col2Im", 18, col2im}};
  return kRows;
}

}  // namespace onnxfold
