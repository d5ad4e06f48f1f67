// ConvTranspose: products of transposed weights with the input, scattered into the output.
#include <fmt/format.h>

#include <algorithm>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/gemm.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/window.h"

namespace onnxfold {
namespace {

struct Transposed {
  std::int64_t batch, channels, filters, groups;  // filters of one group
  Window window;                                  // of the convolution this transposes: `in` is our output
};

// Output size, and the padding that an explicit output_shape or auto_pad implies.
Status place_output(const KernelContext& ctx, const Dims& in, Window& w) {
  const std::size_t axes = in.size();
  const Dims zeros(axes, 0);
  const Dims extra = ctx.node().attr_ints("output_padding").value_or(zeros);
  std::optional<Dims> shape = ctx.node().attr_ints("output_shape");
  if (shape && shape->size() == axes + 2) shape->erase(shape->begin(), shape->begin() + 2);
  const std::string mode = ctx.attr("auto_pad", "NOTSET");
  if (extra.size() != axes || (shape && shape->size() != axes))
    return ctx.invalid("output_padding or output_shape has the wrong length");
  w.in.assign(axes, 0);
  w.out = in;
  for (std::size_t i = 0; i < axes; ++i) {
    const std::int64_t reach = std::max<std::int64_t>(in[i] - 1, 0) * w.strides[i] + w.extent(i) + extra[i];
    if (extra[i] < 0 || extra[i] > reach) return ctx.invalid("output_padding is out of range");
    if (shape || mode == "SAME_UPPER" || mode == "SAME_LOWER") {
      w.in[i] = shape ? (*shape)[i] : in[i] * w.strides[i];
      const std::int64_t total = std::max<std::int64_t>(reach - w.in[i], 0);
      w.pads_begin[i] = mode == "SAME_UPPER" ? total / 2 : total - total / 2;
    } else {
      w.in[i] = reach - w.pads_begin[i] - w.pads_end[i];
    }
    if (w.in[i] < 0 || (w.in[i] == 0 && in[i] != 0))
      return ctx.invalid(fmt::format("output axis {} would be of size {}", i, w.in[i]));
  }
  return {};
}

// Adds the columns of one filter, [kernel, positions], to its output plane.
template <typename T>
void scatter(const Window& w, const T* columns, T* plane) {
  for (std::int64_t kd = 0; kd < w.kernel[0]; ++kd) {
    for (std::int64_t kh = 0; kh < w.kernel[1]; ++kh) {
      for (std::int64_t kw = 0; kw < w.kernel[2]; ++kw) {
        for (std::int64_t d = 0; d < w.out[0]; ++d) {
          const std::int64_t to_d = d * w.strides[0] - w.pads_begin[0] + kd * w.dilations[0];
          for (std::int64_t h = 0; h < w.out[1]; ++h, columns += w.out[2]) {
            const std::int64_t to_h = h * w.strides[1] - w.pads_begin[1] + kh * w.dilations[1];
            if (to_d < 0 || to_d >= w.in[0] || to_h < 0 || to_h >= w.in[1]) continue;
            T* row = plane + (to_d * w.in[1] + to_h) * w.in[2];
            std::int64_t to_w = kw * w.dilations[2] - w.pads_begin[2];
            for (std::int64_t i = 0; i < w.out[2]; ++i, to_w += w.strides[2]) {
              if (to_w >= 0 && to_w < w.in[2]) row[to_w] += columns[i];
            }
          }
        }
      }
    }
  }
}

template <typename T>
void run(const Transposed& conv, const T* x, const T* weight, const T* bias, T* y) {
  const Window& w = conv.window;
  const std::int64_t positions = element_count(w.out), kernel = element_count(w.kernel), plane = element_count(w.in);
  const std::int64_t channels = conv.channels / conv.groups, rows = conv.filters * kernel;
  const std::int64_t cost = std::max<std::int64_t>(1, channels * kernel * positions / 8);
  // A unit is one output plane: no two threads add to the same element.
  parallel_for(conv.batch * conv.groups * conv.filters, std::max<std::int64_t>(1, kElementGrain / cost),
               [&](std::int64_t begin, std::int64_t end) {
                 std::vector<T> columns(static_cast<std::size_t>(kernel * positions));
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t image = i / conv.filters, filter = i % conv.filters, group = image % conv.groups;
                   gemm(kernel, positions, channels, T{1}, weight + group * channels * rows + filter * kernel, rows,
                        true, x + image * channels * positions, positions, false, T{0}, columns.data(), positions);
                   T* to = y + i * plane;
                   std::fill_n(to, plane, bias ? bias[group * conv.filters + filter] : T{0});
                   scatter(w, columns.data(), to);
                 }
               });
}

Status conv_transpose(KernelContext& ctx) {
  OF_TRY(ctx.need(2));
  const Array &x = ctx.in(0), &w = ctx.in(1);
  const std::int64_t groups = ctx.attr("group", std::int64_t{1});
  if (x.rank() < 3 || x.rank() != w.rank() || groups < 1 || x.dim(1) != w.dim(0) || x.dim(1) % groups != 0 ||
      x.storage() != w.storage()) {
    return ctx.invalid(fmt::format("X {} and W {} do not fit together with group {}", dims_text(x.dims()),
                                   dims_text(w.dims()), groups));
  }
  if (x.rank() > 5) return ctx.unsupported("more than three spatial axes");
  const Dims kernel = spatial_dims(w.dims());
  OF_ASSIGN(Window window, read_window(ctx, spatial_dims(x.dims()), &kernel));
  OF_TRY(place_output(ctx, spatial_dims(x.dims()), window));
  const std::int64_t filters = w.dim(1);
  if (ctx.has(2) && (ctx.in(2).size() != filters * groups || ctx.in(2).storage() != x.storage())) {
    return ctx.invalid(fmt::format("bias {} does not fit {} filters", dims_text(ctx.in(2).dims()), filters * groups));
  }
  Dims dims{x.dim(0), filters * groups};
  dims.insert(dims.end(), window.in.begin(), window.in.end());
  Array& y = ctx.out(0, x.dtype(), dims);
  const Transposed conv{x.dim(0), x.dim(1), filters, groups, window.widened(3)};
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    run(conv, x.data<T>(), w.data<T>(), ctx.has(2) ? ctx.in(2).data<T>() : nullptr, y.mutable_data<T>());
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"ConvTranspose", 1, conv_transpose}};

}  // namespace

KernelRows conv_transpose_kernels() { return kRows; }

}  // namespace onnxfold
