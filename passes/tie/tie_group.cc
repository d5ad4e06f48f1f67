#include "passes/tie/tie_group.h"

#include <algorithm>
#include <cmath>

#include "passes/tie/shared_weight.h"

namespace onnxfold {
namespace {

// Residuals of this share of the weight are rounding: layers were equal, or one is the start.
constexpr double kNoResidual = 1e-13;

Result<Matrix> start_of(const TieGroup& group, const SharedFitter& fitter, TieStart start) {
  switch (start) {
    case TieStart::kAverage:
      return fitter.average();
    case TieStart::kWeighted:
      return fitter.weighted_mean();
    case TieStart::kStepwise:
      return weight_matrix(group.stepwise);
    case TieStart::kLower:
      return weight_matrix(group.lower);
  }
  return fitter.average();
}

bool all_equal(const std::vector<Matrix>& weights) {
  return std::all_of(weights.begin(), weights.end(),
                     [&](const Matrix& weight) { return weight.data == weights.front().data; });
}

Result<SharedFit> fit_by(const TieGroup& group, const SharedFitter& fitter, const TieOptions& options,
                         std::int64_t rank) {
  if (options.factors == TieFactors::kClosed) return fitter.closed_form(rank, options.rounds);
  OF_ASSIGN(const Matrix start, start_of(group, fitter, options.start));
  if (options.factors == TieFactors::kAlternate) return fitter.alternate(start, rank, options.rounds);
  return fitter.correct(start, rank, options.factors == TieFactors::kSvd);
}

}  // namespace

Result<std::vector<TieGroup>> tie_groups(const LayerStack& stack, Looping looping, std::size_t loops) {
  const std::size_t layers = stack.blocks.size();
  OF_ASSIGN(const std::vector<std::size_t> table, looped_layers(looping, layers, loops));
  const std::size_t count = layers / loops;
  const std::vector<std::size_t> steps = stepwise_layers(layers, count);
  std::vector<TieGroup> groups;
  for (std::size_t unique = 0; unique < count; ++unique) {
    for (std::size_t role = 0; role < stack.roles.size(); ++role) {
      TieGroup group{stack.roles[role], {}, {}, stack.linears[steps[unique]][role], stack.linears[unique][role]};
      bool tied = true;
      for (std::size_t layer = 0; layer < layers; ++layer) {
        if (table[layer] != unique) continue;
        group.blocks.push_back(stack.blocks[layer]);
        group.linears.push_back(stack.linears[layer][role]);
        tied = tied && group.linears.back().product->input(1) == group.linears.front().product->input(1);
      }
      if (!tied) groups.push_back(std::move(group));
    }
  }
  return groups;
}

Result<SharedFitter> fitter_of(const TieGroup& group, const InputStatistics& statistics) {
  std::vector<Matrix> weights;
  std::vector<const Matrix*> grams;
  for (const Linear& linear : group.linears) {
    OF_ASSIGN(Matrix weight, weight_matrix(linear));
    weights.push_back(std::move(weight));
    const auto found = statistics.find(linear.input->name());
    if (found != statistics.end() && found->second.gram.rows == linear.in) grams.push_back(&found->second.gram);
  }
  if (grams.size() != weights.size()) grams.clear();
  return SharedFitter::create(std::move(weights), grams);
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
  OF_ASSIGN(const Matrix start, start_of(group, fitter, options.start));
  CorrectionCurve curve = sizes_of(group);
  curve.energy = fitter.energy();
  const SharedFit fit = fitter.correct(start, 1, options.factors == TieFactors::kSvd);
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
  SharedFit fit;
  if (all_equal(fitter.weights())) {
    fit.shared = fitter.weights().front();
    fit.corrections.resize(fitter.weights().size());
    return fit;
  }
  OF_ASSIGN(fit, fit_by(group, fitter, options, rank));
  for (std::size_t l = 0; l < fit.corrections.size(); ++l) {
    const Matrix rest = sum(fitter.weights()[l], fit.shared, -1);
    if (frobenius_norm(rest) <= kNoResidual * frobenius_norm(fit.shared)) fit.corrections[l] = LowRank();
  }
  fit.error = fitter.energy() > 0 ? std::sqrt(std::max(0.0, fit.error) / fitter.energy()) : 0;
  return fit;
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

Status apply_fit(Graph& graph, const TieGroup& group, const SharedFit& fit) {
  std::vector<Linear> linears;
  for (const Linear& linear : group.linears) {
    linears.push_back(*linear_at(*graph.find(linear.product->output()->name())->producer()));
  }
  const DType dtype = linears.front().weight->constant()->dtype();
  std::vector<std::pair<Tensor, Tensor>> factors(linears.size());
  for (std::size_t l = 0; l < linears.size(); ++l) {
    const LowRank& pair = fit.corrections[l];
    if (pair.a.empty()) continue;
    OF_ASSIGN(factors[l].first, from_doubles(dtype, {pair.a.rows, pair.a.cols}, pair.a.data));
    OF_ASSIGN(factors[l].second, from_doubles(dtype, {pair.b.rows, pair.b.cols}, pair.b.data));
  }
  OF_ASSIGN(const Tensor shared, from_doubles(dtype, {fit.shared.rows, fit.shared.cols}, fit.shared.data));
  share_weight(graph, linears, shared);
  for (std::size_t l = 0; l < fit.biases.size(); ++l) {
    if (!fit.biases[l].empty()) OF_TRY(replace_bias(graph, linears[l], fit.biases[l]));
  }
  for (std::size_t l = 0; l < linears.size(); ++l) {
    if (!factors[l].first.defined()) continue;
    OF_TRY(add_correction(graph, linears[l], std::move(factors[l].first), std::move(factors[l].second)));
  }
  return {};
}

}  // namespace onnxfold
