// LSTM, and DynamicQuantizeLSTM of com.microsoft, whose weights are codes and whose products round what they read.
// Gates in the order i, o, f, c; peepholes in the order i, o, f.
#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/dynamic_codes.h"
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
void run_direction(KernelContext& ctx, const Recurrent& r, std::int64_t d, const LayerOutputs& outputs, bool rounds) {
  Sweep<T> sweep(ctx, r, d);
  const std::int64_t width = 4 * r.hidden;
  std::vector<T> gates(static_cast<std::size_t>(r.batch * width)), cells = sweep.initial(ctx, 6);
  const Cell<T> cell{sweep, ctx.has(7) ? ctx.in(7).data<T>() + d * 3 * r.hidden : nullptr,
                     ctx.attr("input_forget", std::int64_t{0}) != 0};
  std::vector<T> rounded;
  const auto recur = [&] {
    if (!rounds) return sweep.recur(sweep.state.data(), 0, width, gates.data(), width);
    rounded.resize(sweep.state.size());
    round_dynamically(sweep.state.data(), static_cast<std::int64_t>(sweep.state.size()), rounded.data());
    sweep.recur(rounded.data(), 0, width, gates.data(), width);
  };
  sweep.run(outputs, recur, [&](std::int64_t b, const T* input) {
    cell.step(input, gates.data() + b * width, cells.data() + b * r.hidden, sweep.state.data() + b * r.hidden);
  });
  if (outputs.array[2]) sweep.publish(cells, outputs.data<T>(2));
}

Status run_lstm(KernelContext& ctx, bool rounds) {
  OF_ASSIGN(const Recurrent r, read_recurrent(ctx, 4, {"Sigmoid", "Tanh", "Tanh"}));
  OF_TRY(check_state(ctx, r, 6));
  if (ctx.has(7) &&
      (ctx.in(7).dims() != Dims{r.directions, 3 * r.hidden} || ctx.in(7).storage() != ctx.in(0).storage())) {
    return ctx.invalid("P is " + dims_text(ctx.in(7).dims()) + ", need " + dims_text({r.directions, 3 * r.hidden}));
  }
  const LayerOutputs outputs = make_outputs(ctx, r);
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t d = 0; d < r.directions; ++d) run_direction<T>(ctx, r, d, outputs, rounds);
  });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

Status lstm(KernelContext& ctx) { return run_lstm(ctx, false); }

// Codes [directions, K, 4 hidden] with one scale and zero point a direction, or one a column: [directions, 4 hidden,
// K].
Result<Array> decoded(const KernelContext& ctx, std::size_t at, std::size_t scale_at) {
  const Array& codes = ctx.in(at);
  if (codes.rank() != 3) return ctx.invalid("a weight of another rank than 3");
  OF_ASSIGN(const std::vector<double> from, to_doubles(codes));
  OF_ASSIGN(const std::vector<double> scales, to_doubles(ctx.in(scale_at)));
  OF_ASSIGN(const std::vector<double> zeros, to_doubles(ctx.in(scale_at + 1)));
  const std::int64_t directions = codes.dim(0), k = codes.dim(1), n = codes.dim(2);
  const auto fits = [&](const std::vector<double>& x) {
    return static_cast<std::int64_t>(x.size()) == directions || static_cast<std::int64_t>(x.size()) == directions * n;
  };
  if (!fits(scales) || !fits(zeros)) return ctx.invalid("scales or zero points do not fit its weights");
  const auto of = [&](const std::vector<double>& x, std::int64_t d, std::int64_t column) {
    const bool each = static_cast<std::int64_t>(x.size()) != directions;
    return x[static_cast<std::size_t>(each ? d * n + column : d)];
  };
  Array made = ctx.make(ctx.in(0).dtype(), {directions, n, k});
  visit_float(made.storage(), [&]<typename T>(Tag<T>) {
    T* to = made.mutable_data<T>();
    for (std::int64_t d = 0; d < directions; ++d) {
      for (std::int64_t row = 0; row < k; ++row) {
        for (std::int64_t column = 0; column < n; ++column) {
          const double code = from[static_cast<std::size_t>((d * k + row) * n + column)] - of(zeros, d, column);
          to[(d * n + column) * k + row] = static_cast<T>(code * of(scales, d, column));
        }
      }
    }
  });
  return made;
}

// Inputs 0 to 7 as LSTM's but for W and R, which are transposed codes; 8 to 11: scale and zero point of both.
Status dynamic_quantize_lstm(KernelContext& ctx) {
  for (const std::size_t i : {0U, 1U, 2U, 8U, 9U, 10U, 11U}) {
    if (!ctx.has(i)) return ctx.invalid("a required input is missing");
  }
  const Array& x = ctx.in(0);
  if (x.rank() != 3) return ctx.invalid("X has another rank than 3");
  Array rounded = ctx.make(x.dtype(), x.dims());
  std::int64_t seen = x.size();
  if (ctx.has(4)) {
    OF_ASSIGN(const std::vector<double> lengths, to_doubles(ctx.in(4)));
    const double longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
    seen = std::clamp<std::int64_t>(static_cast<std::int64_t>(longest), 0, x.dim(0)) * x.dim(1) * x.dim(2);
  }
  const bool done = visit_float(x.storage(), [&]<typename T>(Tag<T>) {
    round_dynamically(x.data<T>(), x.size(), rounded.mutable_data<T>(), seen);
  });
  if (!done) return ctx.unsupported("element type is not a float");
  std::vector<Datum> inputs{Datum(std::move(rounded))};
  OF_ASSIGN(Array w, decoded(ctx, 1, 8));
  OF_ASSIGN(Array r, decoded(ctx, 2, 10));
  inputs.emplace_back(std::move(w));
  inputs.emplace_back(std::move(r));
  for (std::size_t i = 3; i < 8; ++i) inputs.push_back(ctx.has(i) ? ctx.datum(i) : Datum());
  static const SubgraphRunner kNone;
  KernelContext inner(ctx.node(), ctx.opset(), ctx.precision(), std::move(inputs), kNone);
  OF_TRY(run_lstm(inner, true));
  std::vector<Datum> outputs = inner.take_outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (ctx.wants(i)) ctx.set(i, std::move(outputs[i]));
  }
  return {};
}

constexpr KernelRow kRows[] = {{"LSTM", 1, lstm}, {"DynamicQuantizeLSTM", 1, dynamic_quantize_lstm, "com.microsoft"}};

}  // namespace

KernelRows lstm_kernels() { return kRows; }

}  // namespace onnxfold
