// x * 0.5 * (1 + Erf(x / sqrt 2))                         => Gelu                     opset 20
// 0.5 x (1 + Tanh(sqrt(2/pi) (x + 0.044715 x^3)))         => Gelu<approximate = tanh> opset 20
// x * Sigmoid(x), x * Sigmoid(1.702 x)                    => Swish<alpha>             opset 24
// x * Clip(x + 3, 0, 6) / 6, x * HardSigmoid<1/6, 0.5>(x) => HardSwish                opset 14
// x * Tanh(Softplus(x))                                   => Mish                     opset 18
// Log(1 + Exp(x))                                         => Softplus
//
// Every spelling that computes the function (analysis/structure/activation.h evaluates chains), no inner value read
// elsewhere. The chain's constants must be the formula's, rounded to float32 at most: with constants written to a few
// digits, or to float16, the function is another one and the chain stays. Rounding.
#include "analysis/structure/activation.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Kind = ActivationMatch::Kind;

constexpr double kLargestError = 1e-13;  // of a formula evaluated twice in double

struct Operator {
  std::string_view op_type;
  std::int64_t since;
};

std::optional<Operator> operator_of(Kind kind) {
  switch (kind) {
    case Kind::kGelu:
      return Operator{"Gelu", 20};
    case Kind::kGeluTanh:
      return Operator{"Gelu", 20};
    case Kind::kSilu:
      return Operator{"Swish", 24};
    case Kind::kQuickGelu:
      return Operator{"Swish", 24};
    case Kind::kHardSwish:
      return Operator{"HardSwish", 14};
    case Kind::kMish:
      return Operator{"Mish", 18};
    case Kind::kSoftplus:
      return Operator{"Softplus", 1};
    default:
      return {};
  }
}

std::vector<Attribute> attributes_of(Kind kind) {
  std::vector<Attribute> attributes;
  if (kind == Kind::kGeluTanh) attributes.emplace_back("approximate", std::string("tanh"));
  if (kind == Kind::kQuickGelu) attributes.emplace_back("alpha", 1.702F);
  return attributes;
}

std::string obstacle(const ActivationMatch& match, const Operator& target, std::int64_t opset) {
  if (opset < target.since) {
    return std::string(target.op_type) + " needs opset " + std::to_string(target.since) + ", the model has " +
           std::to_string(opset);
  }
  if (!is_float(match.input->dtype()) || match.output->dtype() != match.input->dtype()) {
    return "its element type is not known to be a float";
  }
  if (match.error > kLargestError) return "its constants are not exactly those of " + std::string(name(match.kind));
  return {};
}

// A scalar that raises the rank (x of rank 0, a constant of rank 1) changes the shape, a single operator does not.
bool keeps_rank(const ActivationMatch& match) {
  const auto in = match.input->rank(), out = match.output->rank();
  return in && out && *in == *out;
}

class FuseActivation final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    std::vector<ActivationMatch> matches = find_activations(graph);
    // The last first: what an earlier match makes is the input of a later one.
    for (auto match = matches.rbegin(); match != matches.rend(); ++match) {
      if (match->fused) continue;
      const std::optional<Operator> target = operator_of(match->kind);
      if (!target) continue;
      Node* last = match->output->producer();
      std::string why = obstacle(*match, *target, graph.opset());
      if (why.empty() && !keeps_rank(*match)) why = "its result may have another rank than its input";
      if (!why.empty()) {
        context.skipped(last->label(), why);
        continue;
      }
      const std::string label = last->label();
      Node* made = graph.insert({.op_type = std::string(target->op_type),
                                 .inputs = {match->input},
                                 .outputs = {{match->output->name(), match->output->type()}},
                                 .attributes = attributes_of(match->kind),
                                 .domain = "",
                                 .name = last->name},
                                last);
      replace_and_erase(graph, *last, *made->output());
      context.applied(label, std::string(name(match->kind)));
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fuse_activation(const PassOptions&) { return std::make_unique<FuseActivation>(); }

}  // namespace onnxfold
