// y = Linear(Norm(x) * g) => y = Linear'(Norm(x) * (g / s)), rows of the weight times s (SmoothQuant, arXiv
// 2211.10438).
//
// s_j = max|X_j|^a / max|W_j|^(1-a) for input channel j, over all Linears that read the value. Also Mul(a, Linear) and
// Relu(Linear) in front of a Linear: the columns of the earlier one are divided. Conditions: only Linears read the
// value; gain, bias and weights are constant; calibration data. Rounding: the same function, with outliers of the
// activations moved into weights, before activations are quantized.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/statistics.h"
#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// What makes the value whose channels are rescaled.
struct Site {
  Value* value = nullptr;
  std::vector<Linear> readers;
  std::optional<Norm> norm;
  std::optional<Linear> earlier;
};

// All Linears that read `value`, if nothing else does.
std::optional<std::vector<Linear>> readers_of(const Value& value) {
  std::vector<Linear> readers;
  for (const Use& use : value.uses()) {
    if (use.node == nullptr || use.index != 0 || use.node->graph() != value.graph()) return {};
    auto linear = linear_at(*use.node);
    if (!linear || linear->input != &value) return {};
    readers.push_back(*linear);
  }
  if (readers.empty()) return {};
  return readers;
}

// The Linear whose output channels are the channels of `value`, times something or cut at zero.
std::optional<Linear> earlier_of(const Value& value) {
  const Node* node = value.producer();
  if (node == nullptr) return {};
  if (node->is("Relu")) {
    return sole_consumer(node->input(0)) == node ? linear_making(node->input(0)) : std::nullopt;
  }
  if (!node->is("Mul")) return {};
  for (const std::size_t i : {1U, 0U}) {
    const Value* operand = node->input(i);
    if (sole_consumer(operand) != node || constant(node->input(1 - i)) != nullptr) continue;
    auto linear = linear_making(operand);
    const auto rank = value.rank();
    if (linear && rank && rank == operand->rank() && rank == node->input(1 - i)->rank()) return linear;
  }
  return {};
}

// Divides the constant of `count` elements that `reader` reads by `factors`.
Status divide_constant(Graph& graph, Value& value, const std::vector<Node*>& readers,
                       const std::vector<double>& factors) {
  const Tensor& tensor = *constant(&value);
  OF_ASSIGN(std::vector<double> numbers, to_doubles(tensor));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] /= factors[i % factors.size()];
  OF_ASSIGN(Tensor divided, from_doubles(tensor.dtype(), tensor.dims(), numbers));
  Value* made = add_constant(graph, std::move(divided), value.name() + "_smooth");
  for (Node* node : readers) {
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      if (node->input(i) == &value) graph.set_input(*node, i, made);
    }
  }
  erase_if_unused(graph, value);
  return {};
}

class Smooth final : public Pass {
 public:
  explicit Smooth(double strength) : strength_(strength) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument, "needs data to see outliers on: give --calibration FILE.npz");
    }
    if (graph.parent() != nullptr) return false;
    const std::vector<Site> sites = find_sites(graph, context);
    if (sites.empty()) return false;
    std::vector<std::string> names;
    for (const Site& site : sites) names.push_back(site.value->name());
    OF_ASSIGN(const auto statistics,
              collect_statistics(context.model(), *context.calibration, names, /*with_gram=*/false));
    bool any = false;
    // Rescaling replaces weights, so sites are matched again, one by one.
    for (const std::string& name : names) {
      const auto found = statistics.find(name);
      const auto site = site_of(graph, name);
      if (!site || found == statistics.end()) continue;
      OF_ASSIGN(const bool changed, rescale(graph, *site, found->second.moments.max_abs, context));
      any = any || changed;
    }
    return any;
  }

 private:
  static std::optional<Site> site_at(Value* value, std::optional<Norm> norm) {
    auto readers = readers_of(*value);
    if (!readers) return {};
    Site site{value, std::move(*readers), std::move(norm), {}};
    if (site.norm) return site;
    site.earlier = earlier_of(*value);
    return site.earlier && site.earlier->out == site.readers.front().in ? std::optional(site) : std::nullopt;
  }

  static std::optional<Site> site_of(Graph& graph, const std::string& name) {
    Value* value = graph.find(name);
    if (value == nullptr) return {};
    for (const Norm& norm : find_norms(graph)) {
      if (norm.output == value) return site_at(value, norm);
    }
    return site_at(value, {});
  }

  static std::vector<Site> find_sites(const Graph& graph, PassContext& context) {
    std::vector<Site> sites;
    for (const Norm& norm : find_norms(graph)) {
      if (norm.gain == nullptr || constant(norm.gain) == nullptr) continue;
      auto site = site_at(norm.output, norm);
      if (site) {
        sites.push_back(std::move(*site));
      } else {
        context.skipped(norm.last()->label(), "something else than Linears reads the norm");
      }
    }
    for (const Node* node : graph.nodes()) {
      if (!node->is("Mul") && !node->is("Relu")) continue;
      auto site = site_at(node->output(), {});
      if (site) sites.push_back(std::move(*site));
    }
    return sites;
  }

  Result<std::vector<double>> factors_for(const Site& site, const std::vector<double>& largest) const {
    std::vector<double> weights(largest.size());
    for (const Linear& reader : site.readers) {
      OF_ASSIGN(const Matrix matrix, weight_matrix(reader));
      for (std::int64_t i = 0; i < matrix.rows; ++i) {
        double& most = weights[static_cast<std::size_t>(i)];
        for (std::int64_t j = 0; j < matrix.cols; ++j) most = std::max(most, std::abs(matrix.at(i, j)));
      }
    }
    std::vector<double> factors(largest.size(), 1.0);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      if (!(largest[i] > 0) || !(weights[i] > 0)) continue;
      const double s = std::pow(largest[i], strength_) / std::pow(weights[i], 1 - strength_);
      if (std::isfinite(s)) factors[i] = std::clamp(s, 1e-5, 1e5);
    }
    return factors;
  }

  Result<bool> rescale(Graph& graph, const Site& site, const std::vector<double>& largest, PassContext& context) const {
    for (const Linear& reader : site.readers) {
      if (reader.in != static_cast<std::int64_t>(largest.size())) return false;
    }
    OF_ASSIGN(const std::vector<double> factors, factors_for(site, largest));
    if (std::all_of(factors.begin(), factors.end(), [](double s) { return s == 1; })) return false;
    const std::string label = site.value->name();
    for (const Linear& reader : site.readers) OF_TRY(scale_rows(graph, reader, factors));
    if (site.norm) {
      OF_TRY(divide_constant(graph, *site.norm->gain, site.norm->nodes, factors));
      if (site.norm->bias != nullptr) OF_TRY(divide_constant(graph, *site.norm->bias, site.norm->nodes, factors));
    } else {
      OF_TRY(divide_columns(graph, *site.earlier, factors));
    }
    context.note(label, fmt::format("smoothed: largest input {:.3g}, factors {:.3g} to {:.3g}",
                                    *std::max_element(largest.begin(), largest.end()),
                                    *std::min_element(factors.begin(), factors.end()),
                                    *std::max_element(factors.begin(), factors.end())));
    return true;
  }

  static Status scale_rows(Graph& graph, const Linear& linear, const std::vector<double>& factors) {
    OF_ASSIGN(Matrix matrix, weight_matrix(linear));
    for (std::int64_t i = 0; i < matrix.rows; ++i) {
      for (std::int64_t j = 0; j < matrix.cols; ++j) matrix.at(i, j) *= factors[static_cast<std::size_t>(i)];
    }
    const auto replaced = replace_linear(graph, linear, matrix, nullptr);
    return replaced ? Status() : fail(replaced.error());
  }

  static Status divide_columns(Graph& graph, const Linear& linear, const std::vector<double>& factors) {
    OF_ASSIGN(Matrix matrix, weight_matrix(linear));
    OF_ASSIGN(std::vector<double> bias, bias_vector(linear));
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      bias[static_cast<std::size_t>(j)] /= factors[static_cast<std::size_t>(j)];
      for (std::int64_t i = 0; i < matrix.rows; ++i) matrix.at(i, j) /= factors[static_cast<std::size_t>(j)];
    }
    const auto replaced = replace_linear(graph, linear, matrix, linear.bias != nullptr ? &bias : nullptr);
    return replaced ? Status() : fail(replaced.error());
  }

  double strength_;
};

}  // namespace

std::unique_ptr<Pass> make_smooth(const PassOptions& options) {
  return std::make_unique<Smooth>(options.number("strength"));
}

}  // namespace onnxfold
