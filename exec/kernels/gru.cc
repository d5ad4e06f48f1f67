// GRU. Gates in the order z, r, h.
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/recurrent.h"

namespace onnxfold {
namespace {

// z and r of one batch element, activated; h * R^T of both in `recurred`.
template <typename T>
void open_gates(const Sweep<T>& sweep, const T* input, const T* recurred, T* gates) {
  const std::int64_t hidden = sweep.r.hidden;
  for (std::int64_t i = 0; i < 2 * hidden; ++i) {
    gates[i] = input[i] + recurred[i] + (sweep.recurrence_bias ? sweep.recurrence_bias[i] : T{0});
  }
  sweep.activate(0, gates);
  sweep.activate(0, gates + hidden);
}

// Candidate from its pre-activation, then the new state.
template <typename T>
void update(const Sweep<T>& sweep, const T* z, T* candidate, T* state) {
  sweep.activate(1, candidate);
  for (std::int64_t i = 0; i < sweep.r.hidden; ++i) state[i] = (T{1} - z[i]) * candidate[i] + z[i] * state[i];
}

template <typename T>
void run_direction(KernelContext& ctx, const Recurrent& r, std::int64_t d, const LayerOutputs& outputs,
                   bool linear_first) {
  Sweep<T> sweep(ctx, r, d);
  const std::int64_t hidden = r.hidden, width = 3 * hidden;
  std::vector<T> recurred(static_cast<std::size_t>(r.batch * width)), gates(recurred.size()),
      reset(static_cast<std::size_t>(r.batch * hidden));
  const T* bias = sweep.recurrence_bias ? sweep.recurrence_bias + 2 * hidden : nullptr;
  const auto candidate_of = [&](std::int64_t b, const T* input) {
    T* own = gates.data() + b * width;
    const T* from = recurred.data() + b * width + 2 * hidden;
    for (std::int64_t i = 0; i < hidden; ++i) {
      const T linear = from[i] + (bias ? bias[i] : T{0});
      own[2 * hidden + i] = input[2 * hidden + i] + (linear_first ? own[hidden + i] * linear : linear);
    }
    update(sweep, own, own + 2 * hidden, sweep.state.data() + b * hidden);
  };
  if (linear_first) {
    sweep.run(
        outputs, [&] { sweep.recur(sweep.state.data(), 0, width, recurred.data(), width); },
        [&](std::int64_t b, const T* input) {
          open_gates(sweep, input, recurred.data() + b * width, gates.data() + b * width);
          candidate_of(b, input);
        });
    return;
  }
  // The reset gate acts on the state before its product, so gates of the whole batch come first.
  std::int64_t step = 0;
  sweep.run(
      outputs,
      [&] {
        sweep.recur(sweep.state.data(), 0, 2 * hidden, recurred.data(), width);
        for (std::int64_t b = 0; b < r.batch; ++b) {
          const std::int64_t length = r.lengths[static_cast<std::size_t>(b)];
          if (step >= length) continue;
          const std::int64_t t = r.reversed(d) ? length - 1 - step : step;
          open_gates(sweep, sweep.projected.data() + r.x_row(t, b) * width, recurred.data() + b * width,
                     gates.data() + b * width);
          for (std::int64_t i = 0; i < hidden; ++i) {
            reset[static_cast<std::size_t>(b * hidden + i)] = gates[static_cast<std::size_t>(b * width + hidden + i)] *
                                                              sweep.state[static_cast<std::size_t>(b * hidden + i)];
          }
        }
        sweep.recur(reset.data(), 2 * hidden, hidden, recurred.data() + 2 * hidden, width);
        ++step;
      },
      candidate_of);
}

Status gru(KernelContext& ctx) {
  OF_ASSIGN(const Recurrent r, read_recurrent(ctx, 3, {"Sigmoid", "Tanh"}));
  const bool linear_first = ctx.attr("linear_before_reset", std::int64_t{0}) != 0;
  const LayerOutputs outputs = make_outputs(ctx, r);
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t d = 0; d < r.directions; ++d) run_direction<T>(ctx, r, d, outputs, linear_first);
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"GRU", 1, gru}};

}  // namespace

KernelRows gru_kernels() { return kRows; }

}  // namespace onnxfold
