#include "exec/kernels/recurrent.h"

#include <fmt/format.h>

#include <cmath>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

bool takes_alpha(Activation::Kind kind) {
  using K = Activation::Kind;
  return kind == K::kAffine || kind == K::kElu || kind == K::kHardSigmoid || kind == K::kLeakyRelu ||
         kind == K::kScaledTanh || kind == K::kThresholdedRelu;
}

bool takes_beta(Activation::Kind kind) {
  using K = Activation::Kind;
  return kind == K::kAffine || kind == K::kHardSigmoid || kind == K::kScaledTanh;
}

std::vector<std::string> activation_names(const KernelContext& ctx) {
  const Attribute* attribute = ctx.node().attribute("activations");
  const auto* names = attribute ? std::get_if<std::vector<std::string>>(&attribute->value) : nullptr;
  return names ? *names : std::vector<std::string>{};
}

Status read_activations(const KernelContext& ctx, std::initializer_list<const char*> defaults, Recurrent& r) {
  std::vector<std::string> names = activation_names(ctx);
  if (names.empty()) {
    for (std::int64_t d = 0; d < r.directions; ++d) names.insert(names.end(), defaults.begin(), defaults.end());
  }
  if (names.size() != defaults.size() * static_cast<std::size_t>(r.directions)) {
    return ctx.invalid(fmt::format("{} activations given, need {}", names.size(),
                                   defaults.size() * static_cast<std::size_t>(r.directions)));
  }
  const std::vector<float> alphas = ctx.node().attr_floats("activation_alpha").value_or(std::vector<float>{});
  const std::vector<float> betas = ctx.node().attr_floats("activation_beta").value_or(std::vector<float>{});
  std::size_t alpha = 0, beta = 0;
  for (const std::string& name : names) {
    OF_ASSIGN(Activation activation, find_activation(ctx, name, std::nullopt, std::nullopt));
    if (takes_alpha(activation.kind) && alpha < alphas.size()) activation.alpha = alphas[alpha++];
    if (takes_beta(activation.kind) && beta < betas.size()) activation.beta = betas[beta++];
    r.activations.push_back(activation);
  }
  return {};
}

Status read_lengths(const KernelContext& ctx, Recurrent& r) {
  r.lengths.assign(static_cast<std::size_t>(r.batch), r.length);
  if (!ctx.has(4)) return {};
  OF_ASSIGN(r.lengths, to_int64s(ctx.in(4)));
  if (static_cast<std::int64_t>(r.lengths.size()) != r.batch)
    return ctx.invalid("sequence_lens does not fit the batch");
  for (const std::int64_t length : r.lengths) {
    if (length < 0 || length > r.length) return ctx.invalid(fmt::format("sequence length {} is out of range", length));
  }
  return {};
}

Status check_input(const KernelContext& ctx, std::size_t input, const Dims& dims) {
  if (!ctx.has(input)) return {};
  if (ctx.in(input).dims() == dims && ctx.in(input).storage() == ctx.in(0).storage()) return {};
  return ctx.invalid(
      fmt::format("input {} is {}, need {} of the type of X", input, dims_text(ctx.in(input).dims()), dims_text(dims)));
}

template <typename T>
void run_rnn(KernelContext& ctx, const Recurrent& r, const LayerOutputs& outputs) {
  for (std::int64_t d = 0; d < r.directions; ++d) {
    Sweep<T> sweep(ctx, r, d);
    std::vector<T> recurred(static_cast<std::size_t>(r.batch * r.hidden));
    sweep.run(
        outputs, [&] { sweep.recur(sweep.state.data(), 0, r.hidden, recurred.data(), r.hidden); },
        [&](std::int64_t b, const T* input) {
          T* state = sweep.state.data() + b * r.hidden;
          for (std::int64_t i = 0; i < r.hidden; ++i) {
            state[i] = input[i] + recurred[static_cast<std::size_t>(b * r.hidden + i)] +
                       (sweep.recurrence_bias ? sweep.recurrence_bias[i] : T{0});
          }
          sweep.activate(0, state);
        });
  }
}

Status rnn(KernelContext& ctx) {
  OF_ASSIGN(const Recurrent r, read_recurrent(ctx, 1, {"Tanh"}));
  const LayerOutputs outputs = make_outputs(ctx, r);
  const bool done = visit_float(ctx.in(0).storage(), [&]<typename T>(Tag<T>) { run_rnn<T>(ctx, r, outputs); });
  return done ? Status{} : ctx.unsupported("element type is not a float");
}

constexpr KernelRow kRows[] = {{"RNN", 1, rnn}};

}  // namespace

Status check_state(const KernelContext& ctx, const Recurrent& r, std::size_t input) {
  return check_input(ctx, input, r.state_dims());
}

Result<Recurrent> read_recurrent(const KernelContext& ctx, std::int64_t gates,
                                 std::initializer_list<const char*> defaults) {
  OF_TRY(ctx.need(3));
  const Array &x = ctx.in(0), &w = ctx.in(1), &recurrence = ctx.in(2);
  if (x.rank() != 3 || w.rank() != 3 || recurrence.rank() != 3) return ctx.invalid("X, W and R must have rank 3");
  Recurrent r{};
  r.batch_first = ctx.attr("layout", std::int64_t{0}) != 0;
  r.length = x.dim(r.batch_first ? 1 : 0);
  r.batch = x.dim(r.batch_first ? 0 : 1);
  r.inputs = x.dim(2);
  r.hidden = recurrence.dim(2);
  r.gates = gates;
  const std::string direction = ctx.attr("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional") {
    return ctx.invalid(fmt::format("direction \"{}\" is unknown", direction));
  }
  r.directions = direction == "bidirectional" ? 2 : 1;
  r.first_reversed = direction == "reverse";
  r.clip = ctx.attr("clip", 0.0F);
  if (r.clip < 0) return ctx.invalid("clip is negative");
  if (ctx.attr("hidden_size", r.hidden) != r.hidden) return ctx.invalid("hidden_size differs from R");
  OF_TRY(check_input(ctx, 1, {r.directions, gates * r.hidden, r.inputs}));
  OF_TRY(check_input(ctx, 2, {r.directions, gates * r.hidden, r.hidden}));
  OF_TRY(check_input(ctx, 3, {r.directions, 2 * gates * r.hidden}));
  OF_TRY(check_state(ctx, r, 5));
  OF_TRY(read_activations(ctx, defaults, r));
  OF_TRY(read_lengths(ctx, r));
  return r;
}

LayerOutputs make_outputs(KernelContext& ctx, const Recurrent& r) {
  LayerOutputs outputs;
  for (std::size_t i = 0; i < 3; ++i) {
    if (ctx.wants(i)) outputs.array[i] = &ctx.out(i, ctx.in(0).dtype(), i == 0 ? r.y_dims() : r.state_dims());
  }
  if (outputs.array[0]) {
    visit_float(outputs.array[0]->storage(),
                [&]<typename T>(Tag<T>) { std::fill_n(outputs.data<T>(0), outputs.array[0]->size(), T{0}); });
  }
  return outputs;
}

KernelRows recurrent_kernels() { return kRows; }

}  // namespace onnxfold
