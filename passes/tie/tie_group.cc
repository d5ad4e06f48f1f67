#include "passes/tie/tie_group.h"

#include <algorithm>
#include <cmath>

#include "passes/tie/shared_weight.h"

namespace onnxfold {
namespace {

// Residuals of this share of the weight are rounding: layers were equal, or one is the start.
constexpr double kNoResidual = 1e-13;

Result<Matrix> start_of(const TieWeights& weights, const SharedFitter& fitter, TieStart start) {
  switch (start) {
    case TieStart::kAverage:
      return fitter.average();
    case TieStart::kWeighted:
      return fitter.weighted_mean();
    case TieStart::kStepwise:
      return weights.stepwise.matrix();
    case TieStart::kLower:
      return weights.lower.matrix();
  }
  return fitter.average();
}

Result<bool> all_equal(const SharedFitter& fitter) {
  OF_ASSIGN(const Matrix first, fitter.weight(0));
  for (std::size_t l = 1; l < fitter.count(); ++l) {
    OF_ASSIGN(const Matrix other, fitter.weight(l));
    if (other.data != first.data) return false;
  }
  return true;
}

Result<SharedFit> fit_by(const TieWeights& weights, const SharedFitter& fitter, const TieOptions& options,
                         std::int64_t rank) {
  if (options.factors == TieFactors::kClosed) return fitter.closed_form(rank, options.rounds);
  OF_ASSIGN(Matrix start, start_of(weights, fitter, options.start));
  if (options.factors == TieFactors::kAlternate) return fitter.alternate(std::move(start), rank, options.rounds);
  return fitter.correct(std::move(start), rank, options.factors == TieFactors::kSvd);
}

// Of W_l - W'.
Result<double> residual_norm(const SharedFitter& fitter, std::size_t member, const Matrix& shared) {
  OF_ASSIGN(const Matrix weight, fitter.weight(member));
  double squares = 0;
  for (std::size_t i = 0; i < weight.data.size(); ++i) {
    const double rest = weight.data[i] - shared.data[i];
    squares += rest * rest;
  }
  return std::sqrt(squares);
}

TieStart start_named(const std::string& name, bool data) {
  if (name == "auto") return data ? TieStart::kWeighted : TieStart::kAverage;
  if (name == "weighted") return TieStart::kWeighted;
  if (name == "stepwise") return TieStart::kStepwise;
  return name == "lower" ? TieStart::kLower : TieStart::kAverage;
}

TieFactors factors_named(const std::string& name, TieStart start, std::int64_t loops, bool data) {
  if (name == "auto" && start == TieStart::kWeighted) return loops == 2 ? TieFactors::kClosed : TieFactors::kAlternate;
  if (name == "auto") return data ? TieFactors::kWhitened : TieFactors::kSvd;
  if (name == "whitened") return TieFactors::kWhitened;
  if (name == "closed") return TieFactors::kClosed;
  return name == "alternate" ? TieFactors::kAlternate : TieFactors::kSvd;
}

}  // namespace

TieOptions tie_options(const std::string& start, const std::string& factors, std::int64_t loops, bool data,
                       int rounds) {
  const TieStart from = start_named(start, data);
  return {from, factors_named(factors, from, loops, data), rounds};
}

Result<std::vector<TieGroup>> tie_groups(const LayerStack& stack, Looping looping, std::size_t loops) {
  const std::size_t layers = stack.blocks.size();
  OF_ASSIGN(const std::vector<std::size_t> table, looped_layers(looping, layers, loops));
  const std::size_t count = layers / loops;
  const std::vector<std::size_t> steps = stepwise_layers(layers, count);
  std::vector<TieGroup> groups;
  for (std::size_t unique = 0; unique < count; ++unique) {
    for (std::size_t role = 0; role < stack.roles.size(); ++role) {
      TieGroup group{
          stack.roles[role],
          {},
          {},
          {{}, stored_weight(stack.linears[steps[unique]][role]), stored_weight(stack.linears[unique][role])}};
      bool tied = true;
      for (std::size_t layer = 0; layer < layers; ++layer) {
        if (table[layer] != unique) continue;
        group.blocks.push_back(stack.blocks[layer]);
        group.linears.push_back(stack.linears[layer][role]);
        group.weights.members.push_back(stored_weight(stack.linears[layer][role]));
        tied = tied && group.linears.back().product->input(1) == group.linears.front().product->input(1);
      }
      if (!tied) groups.push_back(std::move(group));
    }
  }
  return groups;
}

Result<SharedFitter> fitter_of(const TieGroup& group, const InputStatistics& statistics) {
  std::vector<const Matrix*> grams;
  for (const Linear& linear : group.linears) {
    const auto found = statistics.find(linear.input->name());
    if (found != statistics.end() && found->second.gram.rows == linear.in) grams.push_back(&found->second.gram);
  }
  if (grams.size() != group.linears.size()) return plain_fitter_of(group.weights);
  return SharedFitter::create(
      group.linears.size(), [members = group.weights.members](std::size_t i) { return members[i].matrix(); }, grams);
}

Result<SharedFitter> plain_fitter_of(const TieWeights& weights) {
  return SharedFitter::create(weights.members.size(),
                              [members = weights.members](std::size_t i) { return members[i].matrix(); }, {});
}

CorrectionCurve sizes_of(const TieGroup& group) {
  const Linear& first = group.linears.front();
  const Tensor& stored = *first.weight->constant();
  CorrectionCurve curve;
  curve.in = first.in;
  curve.out = first.out;
  curve.loops = static_cast<std::int64_t>(group.linears.size());
  curve.bytes_each = stored.nbytes() / std::max<std::int64_t>(1, stored.size());
  return curve;
}

Result<CorrectionCurve> curve_of(const TieGroup& group, const InputStatistics& statistics, const TieOptions& options) {
  OF_ASSIGN(const SharedFitter fitter, fitter_of(group, statistics));
  OF_ASSIGN(Matrix start, start_of(group.weights, fitter, options.start));
  CorrectionCurve curve = sizes_of(group);
  curve.energy = fitter.energy();
  OF_ASSIGN(const SharedFit fit, fitter.correct(std::move(start), 1, options.factors == TieFactors::kSvd));
  curve.error_squares.resize(static_cast<std::size_t>(std::min(curve.in, curve.out)));
  for (const LowRank& correction : fit.corrections) {
    for (std::size_t k = 0; k < curve.error_squares.size(); ++k) {
      curve.error_squares[k] += correction.singular[k] * correction.singular[k];
    }
  }
  return curve;
}

Result<SharedFit> fit_group(const TieGroup& group, const InputStatistics& statistics, const TieOptions& options,
                            std::int64_t rank) {
  OF_ASSIGN(const SharedFitter fitter, fitter_of(group, statistics));
  return fit_weights(group.weights, fitter, options, rank);
}

Result<SharedFit> fit_weights(const TieWeights& weights, const SharedFitter& fitter, const TieOptions& options,
                              std::int64_t rank) {
  SharedFit fit;
  OF_ASSIGN(const bool equal, all_equal(fitter));
  if (equal) {
    OF_ASSIGN(fit.shared, fitter.weight(0));
    fit.corrections.resize(fitter.count());
    return fit;
  }
  OF_ASSIGN(fit, fit_by(weights, fitter, options, rank));
  const double no_residual = kNoResidual * frobenius_norm(fit.shared);
  for (std::size_t l = 0; rank > 0 && l < fit.corrections.size(); ++l) {
    OF_ASSIGN(const double rest, residual_norm(fitter, l, fit.shared));
    if (rest <= no_residual) fit.corrections[l] = LowRank();
  }
  fit.error = fitter.energy() > 0 ? std::sqrt(std::max(0.0, fit.error) / fitter.energy()) : 0;
  return fit;
}

Result<TieOutline> outline_of(const TieWeights& weights, const TieOptions& options, std::int64_t rank) {
  OF_ASSIGN(const SharedFitter fitter, plain_fitter_of(weights));
  TieOutline outline{std::vector<std::int64_t>(fitter.count(), 0), 0};
  OF_ASSIGN(const bool equal, all_equal(fitter));
  if (equal) return outline;
  const std::int64_t most = std::min(weights.lower.in, weights.lower.out);
  // What the alternation will make of the start is not known; no member is likely to be it.
  const bool moved = options.factors == TieFactors::kClosed || options.factors == TieFactors::kAlternate;
  OF_ASSIGN(const Matrix start, start_of(weights, fitter, options.start));
  const double no_residual = kNoResidual * frobenius_norm(start);
  double squares = 0;
  for (std::size_t l = 0; l < fitter.count(); ++l) {
    OF_ASSIGN(const double rest, residual_norm(fitter, l, start));
    squares += rest * rest;
    if (moved || rest > no_residual) outline.ranks[l] = std::min(rank, most);
  }
  if (options.factors == TieFactors::kClosed) {  // components in turn, as many as there are
    for (std::size_t l = 0; l < 2; ++l) {
      outline.ranks[l] = (std::min(2 * rank, most) + 1 - static_cast<std::int64_t>(l)) / 2;
    }
  }
  if (!moved && fitter.energy() > 0) outline.strict_error = std::sqrt(squares / fitter.energy());
  return outline;
}

std::size_t pad_corrections(const std::vector<TieGroup>& groups, std::vector<SharedFit>& fits) {
  std::map<std::string, std::int64_t> ranks;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    std::int64_t& most = ranks[groups[i].role];
    for (const LowRank& pair : fits[i].corrections) most = std::max(most, pair.a.cols);
  }
  std::size_t filled = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const std::int64_t rank = ranks[groups[i].role], in = groups[i].linears[0].in, out = groups[i].linears[0].out;
    for (LowRank& pair : fits[i].corrections) {
      if (pair.a.cols == rank) continue;
      Matrix a(in, rank), b(rank, out);
      for (std::int64_t row = 0; row < in; ++row) {
        for (std::int64_t k = 0; k < pair.a.cols; ++k) a.at(row, k) = pair.a.at(row, k);
      }
      std::copy(pair.b.data.begin(), pair.b.data.end(), b.data.begin());
      pair.a = std::move(a);
      pair.b = std::move(b);
      ++filled;
    }
  }
  return filled;
}

Status place_tied(Graph& graph, const TieGroup& group, TiedTensors tensors,
                  const std::vector<std::vector<double>>& biases) {
  std::vector<Linear> linears;
  for (const Linear& linear : group.linears) {
    linears.push_back(*linear_at(*graph.find(linear.product->output()->name())->producer()));
  }
  share_weight(graph, linears, tensors.shared);
  for (std::size_t l = 0; l < biases.size(); ++l) {
    if (!biases[l].empty()) OF_TRY(replace_bias(graph, linears[l], biases[l]));
  }
  for (std::size_t l = 0; l < linears.size(); ++l) {
    auto& [a, b] = tensors.factors[l];
    if (a.defined()) OF_TRY(add_correction(graph, linears[l], std::move(a), std::move(b)));
  }
  return {};
}

Result<TiedTensors> rounded(const SharedFit& fit, DType dtype) {
  TiedTensors tensors;
  OF_ASSIGN(tensors.shared, from_doubles(dtype, {fit.shared.rows, fit.shared.cols}, fit.shared.data));
  for (const LowRank& pair : fit.corrections) {
    auto& [a, b] = tensors.factors.emplace_back();
    if (pair.a.empty()) continue;
    OF_ASSIGN(a, from_doubles(dtype, {pair.a.rows, pair.a.cols}, pair.a.data));
    OF_ASSIGN(b, from_doubles(dtype, {pair.b.rows, pair.b.cols}, pair.b.data));
  }
  return tensors;
}

Status apply_fit(Graph& graph, const TieGroup& group, const SharedFit& fit) {
  OF_ASSIGN(TiedTensors tensors, rounded(fit, group.weights.members.front().tensor.dtype()));
  return place_tied(graph, group, std::move(tensors), fit.biases);
}

}  // namespace onnxfold
