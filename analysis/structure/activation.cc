#include "analysis/structure/activation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "ir/intended_number.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

using Kind = ActivationMatch::Kind;

constexpr std::size_t kMaxNodes = 14;

// ---- what a chain computes, by evaluating it: every spelling of a formula is the same function ----

constexpr std::array<double, 14> kPoints = {-7.5, -3.1, -2.2, -1.3, -0.7, -0.31, -0.05,
                                            0.02, 0.4,  0.9,  1.7,  2.6,  3.3,   6.8};

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double reference(Kind kind, double x) {
  switch (kind) {
    case Kind::kGelu:
      return x * normal_cdf(x);
    case Kind::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Kind::kQuickGelu:
      return x * sigmoid(static_cast<double>(1.702F) * x);
    case Kind::kSilu:
      return x * sigmoid(x);
    case Kind::kMish:
      return x * std::tanh(std::log1p(std::exp(x)));
    case Kind::kHardSwish:
      return x * std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case Kind::kSquaredRelu:
      return x > 0 ? x * x : 0;
    case Kind::kSoftplus:
      return std::log1p(std::exp(x));
    default:
      return NAN;
  }
}

// One node on doubles; nullopt for operators that no activation is written with.
std::optional<double> evaluate(const Node& node, const std::vector<double>& in) {
  const std::string& op = node.op_type();
  if (!node.domain().empty() || in.empty()) return {};
  const double a = in[0];
  const double b = in.size() > 1 ? in[1] : 0;
  if (in.size() == 2) {
    if (op == "Add") return a + b;
    if (op == "Sub") return a - b;
    if (op == "Mul") return a * b;
    if (op == "Div") return a / b;
    if (op == "Pow") return std::pow(a, b);
    if (op == "Min") return std::fmin(a, b);
    if (op == "Max") return std::fmax(a, b);
  }
  if (op == "Clip" && in.size() == 3) return std::fmin(std::fmax(a, in[1]), in[2]);
  if (in.size() != 1) return {};
  if (op == "Erf") return std::erf(a);
  if (op == "Tanh") return std::tanh(a);
  if (op == "Sigmoid") return sigmoid(a);
  if (op == "Softplus") return std::log1p(std::exp(a));
  if (op == "Exp") return std::exp(a);
  if (op == "Log") return std::log(a);
  if (op == "Neg") return -a;
  if (op == "Sqrt") return std::sqrt(a);
  if (op == "Reciprocal") return 1 / a;
  if (op == "Relu") return std::fmax(a, 0.0);
  if (op == "HardSigmoid") {
    const double slope = intended_number(node.attr_float("alpha", 0.2F));
    return std::clamp(slope * a + static_cast<double>(node.attr_float("beta", 0.5F)), 0.0, 1.0);
  }
  if (op == "Clip" && node.opset() < 11) {
    return std::clamp(a, static_cast<double>(node.attr_float("min", -INFINITY)),
                      static_cast<double>(node.attr_float("max", INFINITY)));
  }
  return {};
}

// A constant of a formula as it was written, before the graph rounded it.
std::optional<double> number_of(const Value* value) {
  const auto number = scalar_constant(value);
  if (!number) return {};
  const DType dtype = value->constant()->dtype();
  if (dtype == DType::kFloat32) return intended_number(static_cast<float>(*number));
  const double step = dtype == DType::kFloat16 ? 0x1p-11 : dtype == DType::kBFloat16 ? 0x1p-8 : 0;
  const double root = std::sqrt(2.0), circle = std::sqrt(2 / M_PI);
  for (const double exact : {root, 1 / root, circle, circle * 0.044715, 0.044715, 1.702, 1.0 / 6}) {
    if (std::fabs(*number - exact) <= step * exact) return exact;
  }
  return number;
}

// Value of the chain's output when `source` is x.
std::optional<double> evaluate_chain(const std::vector<Node*>& ordered, const Value* source, double x) {
  std::map<const Value*, double> known = {{source, x}};
  double last = NAN;
  for (const Node* node : ordered) {
    std::vector<double> in;
    for (const Value* input : node->inputs()) {
      const auto found = known.find(input);
      const auto number = found != known.end() ? std::optional<double>(found->second) : number_of(input);
      if (!number) return {};
      in.push_back(*number);
    }
    const auto result = evaluate(*node, in);
    if (!result) return {};
    last = known[node->output()] = *result;
  }
  return last;
}

// The largest share by which number_of() corrected a constant that is no float32: the graph computes with the constant.
double largest_correction(const std::vector<Node*>& ordered) {
  double largest = 0;
  for (const Node* node : ordered) {
    for (const Value* input : node->inputs()) {
      const auto stored = scalar_constant(input), meant = number_of(input);
      if (!stored || *stored == 0 || input->constant()->dtype() == DType::kFloat32) continue;
      largest = std::max(largest, std::fabs(*meant - *stored) / std::fabs(*stored));
    }
  }
  return largest;
}

struct Recognised {
  Kind kind;
  double error;
};

std::optional<Recognised> recognise(const std::vector<Node*>& ordered, const Value* source) {
  std::array<double, kPoints.size()> values{};
  for (std::size_t i = 0; i < kPoints.size(); ++i) {
    const auto value = evaluate_chain(ordered, source, kPoints[i]);
    if (!value) return {};
    values[i] = *value;
  }
  for (const Kind kind : {Kind::kGelu, Kind::kGeluTanh, Kind::kQuickGelu, Kind::kSilu, Kind::kMish, Kind::kHardSwish,
                          Kind::kSquaredRelu, Kind::kSoftplus}) {
    double error = 0;
    // Constants of the chain were rounded to float32; exact and tanh GELU differ by up to 5e-4, so 2e-6 tells them
    // apart.
    for (std::size_t i = 0; i < kPoints.size(); ++i) {
      const double apart = std::fabs(values[i] - reference(kind, kPoints[i])) / (1 + std::fabs(values[i]));
      error = std::isnan(apart) ? INFINITY : std::max(error, apart);
    }
    if (error <= 2e-6) return Recognised{kind, std::max(error, largest_correction(ordered))};
  }
  return {};
}

// ---- single operators ----

std::optional<Kind> operator_kind(const Node& node) {
  static const std::map<std::string, Kind, std::less<>> kStandard = {
      {"Relu", Kind::kRelu},           {"Sigmoid", Kind::kSigmoid},
      {"Tanh", Kind::kTanh},           {"Elu", Kind::kElu},
      {"LeakyRelu", Kind::kLeakyRelu}, {"Mish", Kind::kMish},
      {"HardSwish", Kind::kHardSwish}, {"Softplus", Kind::kSoftplus}};
  if (node.domain() == "com.microsoft") {
    if (node.op_type() == "Gelu") return Kind::kGelu;
    if (node.op_type() == "FastGelu" && node.input(1) == nullptr) return Kind::kGeluTanh;
    if (node.op_type() != "QuickGelu") return {};
    const float alpha = node.attr_float("alpha", 1.702F);
    if (alpha == 1.702F) return Kind::kQuickGelu;
    return alpha == 1.0F ? std::optional(Kind::kSilu) : std::nullopt;
  }
  if (!node.domain().empty()) return {};
  if (node.op_type() == "Gelu")
    return node.attr_string("approximate", "none") == "tanh" ? Kind::kGeluTanh : Kind::kGelu;
  if (node.op_type() == "Swish" && node.attr_float("alpha", 1.0F) == 1.0F) return Kind::kSilu;
  const auto found = kStandard.find(node.op_type());
  return found == kStandard.end() ? std::nullopt : std::optional(found->second);
}

// ---- growing a chain upwards ----

class Chain {
 public:
  explicit Chain(Node& last) { take(last); }

  // Adds the producer of the latest open value; false when it has none that belongs in a chain.
  bool grow() {
    const Value* latest = nullptr;
    for (const Value* value : open_) {
      const Node* producer = value->producer();
      if (producer == nullptr || producer->graph() != nodes_.front()->graph()) continue;
      if (latest == nullptr || producer->graph()->before(*latest->producer(), *producer)) latest = value;
    }
    if (latest == nullptr || nodes_.size() >= kMaxNodes) return false;
    open_.erase(std::find(open_.begin(), open_.end(), latest));
    return take(*latest->producer());
  }

  const Value* source() const { return open_.size() == 1 ? open_.front() : nullptr; }

  std::vector<Node*> ordered() const {
    std::vector<Node*> sorted = nodes_;
    std::sort(sorted.begin(), sorted.end(), [](const Node* a, const Node* b) { return a->graph()->before(*a, *b); });
    return sorted;
  }

  // Only members read what members make, the last one's output excepted.
  bool closed() const {
    for (std::size_t i = 1; i < nodes_.size(); ++i) {
      for (const Use& use : nodes_[i]->output()->uses()) {
        if (use.node == nullptr || std::find(nodes_.begin(), nodes_.end(), use.node) == nodes_.end()) return false;
      }
    }
    return true;
  }

 private:
  bool take(Node& node) {
    if (node.outputs().size() != 1 || node.inputs().empty()) return false;
    nodes_.push_back(&node);
    for (const Value* input : node.inputs()) {
      if (input == nullptr) return false;
      if (scalar_constant(input)) continue;
      if (std::find(open_.begin(), open_.end(), input) == open_.end()) open_.push_back(input);
    }
    std::vector<double> trial(node.inputs().size(), 0.5);
    return evaluate(node, trial).has_value();
  }

  std::vector<Node*> nodes_;
  std::vector<const Value*> open_;
};

std::optional<ActivationMatch> chain_making(Node& last) {
  if (!last.is("Mul") && !last.is("Div") && !last.is("Pow") && !last.is("Log")) return {};
  Chain chain(last);
  while (chain.grow()) {
    const Value* source = chain.source();
    if (source == nullptr || !chain.closed()) continue;
    const std::vector<Node*> ordered = chain.ordered();
    const auto recognised = recognise(ordered, source);
    if (!recognised) continue;
    ActivationMatch activation;
    activation.kind = recognised->kind;
    activation.error = recognised->error;
    activation.input = const_cast<Value*>(source);
    activation.output = last.output();
    activation.nodes = ordered;
    return activation;
  }
  return {};
}

}  // namespace

std::string_view name(ActivationMatch::Kind kind) {
  constexpr std::array<std::string_view, 13> kNames = {
      "ReLU",    "GELU", "GELU (tanh)", "quick GELU", "SiLU",         "Mish",    "HardSwish",
      "sigmoid", "tanh", "ELU",         "leaky ReLU", "squared ReLU", "softplus"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::optional<ActivationMatch::Kind> activation_named(std::string_view op_type) {
  if (op_type == "Relu") return Kind::kRelu;
  if (op_type == "Sigmoid") return Kind::kSigmoid;
  if (op_type == "Tanh") return Kind::kTanh;
  return {};
}

std::optional<ActivationMatch> activation_making(const Value* value) {
  if (value == nullptr || value->producer() == nullptr) return {};
  Node& node = *value->producer();
  const auto kind = operator_kind(node);
  if (!kind) return chain_making(node);
  ActivationMatch activation;
  activation.kind = *kind;
  activation.input = node.input(0);
  activation.output = node.output();
  activation.fused = true;
  activation.nodes = {&node};
  return activation;
}

std::vector<ActivationMatch> find_activations(const Graph& graph) {
  std::vector<ActivationMatch> found;
  std::vector<const Node*> inner;
  std::vector<Node*> nodes = graph.nodes();
  // From the end, so that a chain is seen before the Relu or Sigmoid inside it.
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    if (std::find(inner.begin(), inner.end(), *node) != inner.end() || (*node)->output() == nullptr) continue;
    auto activation = activation_making((*node)->output());
    if (!activation) continue;
    if (!activation->fused) inner.insert(inner.end(), activation->nodes.begin(), activation->nodes.end());
    found.push_back(std::move(*activation));
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace onnxfold
