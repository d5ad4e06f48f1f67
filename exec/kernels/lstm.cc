// LSTM. Gates in the order i, o, f, c; peepholes in the order i, o, f.
#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"
#include "exec/kernels/recurrent.h"

namespace onnxfold {
namespace {

template <typename T>
struct Cell {
  const Sweep<T>& sweep;
  const T* peephole;  // [3 * hidden] or null
  bool coupled;       // input_forget: f = 1 - i

  void add_peephole(int which, const T* cell, T* gate) const {
    if (!peephole) return;
    const std::int64_t hidden = sweep.r.hidden;
    for (std::int64_t i = 0; i < hidden; ++i) gate[i] += peephole[which * hidden + i] * cell[i];
  }

  // gates holds the recurrent products and is overwritten.
  void step(const T* input, T* gates, T* cell, T* state) const {
    const std::int64_t hidden = sweep.r.hidden;
    for (std::int64_t i = 0; i < 4 * hidden; ++i) {
      gates[i] += input[i] + (sweep.recurrence_bias ? sweep.recurrence_bias[i] : T{0});
    }
    T *in = gates, *out = gates + hidden, *forget = gates + 2 * hidden, *candidate = gates + 3 * hidden;
    add_peephole(0, cell, in);
    sweep.activate(0, in);
    if (coupled) {
      for (std::int64_t i = 0; i < hidden; ++i) forget[i] = T{1} - in[i];
    } else {
      add_peephole(2, cell, forget);
      sweep.activate(0, forget);
    }
    sweep.activate(1, candidate);
    for (std::int64_t i = 0; i < hidden; ++i) cell[i] = forget[i] * cell[i] + in[i] * candidate[i];
    add_peephole(1, cell, out);
    sweep.activate(0, out);
    std::copy_n(cell, hidden, state);
    apply_activation(sweep.r.activation(sweep.direction, 2), state, hidden);
    for (std::int64_t i = 0; i < hidden; ++i) state[i] *= out[i];
  }
};

template <typename T>
void run_direction(KernelContext& ctx, const Recurrent& r, std::int64_t d, const LayerOutputs& outputs) {
  Sweep<T> sweep(ctx, r, d);
  const std::int64_t width = 4 * r.hidden;
  std::vector<T> gates(static_cast<std::size_t>(r.batch * width)), cells = sweep.initial(ctx, 6);
  const Cell<T> cell{sweep, ctx.has(7) ? ctx.in(7).data<T>() + d * 3 * r.hidden : nullptr,
                     ctx.attr("input_forget", std::int64_t{0}) != 0};
  sweep.run(
      outputs, [&] { sweep.recur(sweep.state.data(), 0, width, gates.data(), width); },
      [&](std::int64_t b, const T* input) {
        cell.step(input, gates.data() + b * width, cells.data() + b * r.hidden, sweep.state.data() + b * r.hidden);
      });
  if (outputs.array[2]) sweep.publish(cells, outputs.data<T>(2));
}

Status lstm(KernelContext& ctx) {
  OF_ASSIGN(const Recurrent r, read_recurrent(ctx, 4, {"Sigmoid", "Tanh", "Tanh"}));
  OF_TRY(check_state(ctx, r, 6));
  if (ctx.has(7) &&
      (ctx.in(7).dims() != Dims{r.directions, 3 * r.hidden} || ctx.in(7).storage() != ctx.in(0).storage())) {
    return ctx.invalid("P is " + dims_text(ctx.in(7).dims()) + ", need " + dims_text({r.directions, 3 * r.hidden}));
  }
  const LayerOutputs outputs = make_outputs(ctx, r);
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t d = 0; d < r.directions; ++d) run_direction<T>(ctx, r, d, outputs);
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"LSTM", 1, lstm}};

}  // namespace

KernelRows lstm_kernels() { return kRows; }

}  // namespace onnxfold
