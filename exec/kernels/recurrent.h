// What RNN, GRU and LSTM share: inputs, directions, activations, order of time.
#pragma once

#include <algorithm>

#include "exec/gemm.h"
#include "exec/kernels/activation.h"
#include "exec/parallel.h"

namespace onnxfold {

struct Recurrent {
  std::int64_t length, batch, inputs, hidden, gates, directions;
  bool batch_first;                     // layout 1
  bool first_reversed;                  // direction "reverse"
  double clip;                          // 0: none
  std::vector<Activation> activations;  // of every direction in turn
  std::vector<std::int64_t> lengths;    // per batch element

  bool reversed(std::int64_t direction) const { return direction == 1 || first_reversed; }
  const Activation& activation(std::int64_t direction, std::size_t which) const {
    return activations[static_cast<std::size_t>(direction) * activations.size() / static_cast<std::size_t>(directions) +
                       which];
  }
  // Row of X at (time, batch element), of Y at (time, direction, batch element), of a state.
  std::int64_t x_row(std::int64_t t, std::int64_t b) const { return batch_first ? b * length + t : t * batch + b; }
  std::int64_t y_row(std::int64_t t, std::int64_t d, std::int64_t b) const {
    return batch_first ? (b * length + t) * directions + d : (t * directions + d) * batch + b;
  }
  std::int64_t state_row(std::int64_t d, std::int64_t b) const {
    return batch_first ? b * directions + d : d * batch + b;
  }
  Dims y_dims() const {
    return batch_first ? Dims{batch, length, directions, hidden} : Dims{length, directions, batch, hidden};
  }
  Dims state_dims() const { return batch_first ? Dims{batch, directions, hidden} : Dims{directions, batch, hidden}; }
};

// Checks all of 0 X, 1 W, 2 R, 3 B, 4 sequence_lens, 5 initial_h, reads attributes; `defaults` names the activations of
// one direction. Errors: invalid_argument, unsupported (an unknown activation), naming the node.
Result<Recurrent> read_recurrent(const KernelContext& ctx, std::int64_t gates,
                                 std::initializer_list<const char*> defaults);
// Checks the shape of an initial state, if given.
Status check_state(const KernelContext& ctx, const Recurrent& r, std::size_t input);

// Y, Y_h, Y_c; null where not wanted. Y starts as zeros: what lies past a sequence's end.
struct LayerOutputs {
  Array* array[3] = {};
  template <typename T>
  T* data(std::size_t i) const {
    return array[i] ? array[i]->mutable_data<T>() : nullptr;
  }
};
LayerOutputs make_outputs(KernelContext& ctx, const Recurrent& r);

// One direction of a recurrent layer while it runs. Rows of `projected` are X * W^T + Wb, of `state` the hidden state.
template <typename T>
struct Sweep {
  const Recurrent& r;
  std::int64_t direction;
  const T* recurrence;       // R, [gates * hidden, hidden]
  const T* recurrence_bias;  // Rb, or null
  std::vector<T> projected, state;

  Sweep(const KernelContext& ctx, const Recurrent& recurrent, std::int64_t d) : r(recurrent), direction(d) {
    const std::int64_t width = r.gates * r.hidden;
    recurrence = ctx.in(2).data<T>() + d * width * r.hidden;
    const T* bias = ctx.has(3) ? ctx.in(3).data<T>() + d * 2 * width : nullptr;
    recurrence_bias = bias ? bias + width : nullptr;
    projected.resize(static_cast<std::size_t>(r.length * r.batch * width), T{0});
    for (std::size_t i = 0; bias && i < projected.size(); ++i) projected[i] = bias[i % static_cast<std::size_t>(width)];
    gemm(r.length * r.batch, width, r.inputs, T{1}, ctx.in(0).data<T>(), r.inputs, false,
         ctx.in(1).data<T>() + d * width * r.inputs, r.inputs, true, T{1}, projected.data(), width);
    state = initial(ctx, 5);
  }

  std::vector<T> initial(const KernelContext& ctx, std::size_t input) const {
    std::vector<T> values(static_cast<std::size_t>(r.batch * r.hidden), T{0});
    for (std::int64_t b = 0; ctx.has(input) && b < r.batch; ++b) {
      std::copy_n(ctx.in(input).template data<T>() + r.state_row(direction, b) * r.hidden, r.hidden,
                  values.data() + b * r.hidden);
    }
    return values;
  }

  // Calls cell(batch element, row of `projected`, row of the state to update) for the steps of each sequence, after
  // before(step), and copies states to Y and at the end to Y_h.
  template <typename Before, typename Cell>
  void run(const LayerOutputs& outputs, Before before, Cell cell) {
    T* y = outputs.data<T>(0);
    const std::int64_t width = r.gates * r.hidden;
    for (std::int64_t s = 0; s < r.length; ++s) {
      before();
      parallel_for(r.batch, std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(width, 1)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t b = begin; b < end; ++b) {
                       const std::int64_t length = r.lengths[static_cast<std::size_t>(b)];
                       if (s >= length) continue;
                       const std::int64_t t = r.reversed(direction) ? length - 1 - s : s;
                       cell(b, projected.data() + r.x_row(t, b) * width);
                       if (y)
                         std::copy_n(state.data() + b * r.hidden, r.hidden, y + r.y_row(t, direction, b) * r.hidden);
                     }
                   });
    }
    if (outputs.array[1]) publish(state, outputs.data<T>(1));
  }

  void publish(const std::vector<T>& values, T* out) const {
    for (std::int64_t b = 0; b < r.batch; ++b) {
      std::copy_n(values.data() + b * r.hidden, r.hidden, out + r.state_row(direction, b) * r.hidden);
    }
  }

  // out[b] = rows [first, first + count) of R times values[b], for every batch element.
  void recur(const T* values, std::int64_t first, std::int64_t count, T* out, std::int64_t out_stride) const {
    gemm(r.batch, count, r.hidden, T{1}, values, r.hidden, false, recurrence + first * r.hidden, r.hidden, true, T{0},
         out, out_stride);
  }

  void activate(std::size_t which, T* values) const {
    if (r.clip != 0) {
      const T limit = static_cast<T>(r.clip);
      for (std::int64_t i = 0; i < r.hidden; ++i) values[i] = std::clamp(values[i], -limit, limit);
    }
    apply_activation(r.activation(direction, which), values, r.hidden);
  }
};

}  // namespace onnxfold
