// MatMul(x, W), Gemm(x, W, c) => the same through two thin products: (x A) B with A [in, r], B [r, out].
//
// Conditions: W is constant, used once, and gets smaller. With calibration data the factors are those that change the
// layer's output least (whitened SVD: SVD-LLM, arXiv 2403.07378), the ranks are spread over the layers by measured
// error, and B is solved anew front to back on what the thinned model feeds it. Without: truncated SVD. Lossy. A weight
// whose rank would not save anything stays as it is, so that a ratio of 1 changes nothing.
#include "analysis/algebra/low_rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/calibrate/statistics.h"
#include "analysis/compare/damage.h"
#include "analysis/depth/block_scores.h"
#include "analysis/structure/linear.h"
#include "exec/side_by_side.h"
#include "passes/pass.h"
#include "passes/width/front_to_back.h"
#include "passes/width/rank_budget.h"
#include "passes/width/removal_spread.h"

namespace onnxfold {
namespace {

struct Target {
  std::string product;  // label, for the report
  std::string output;   // name of the product's output
  std::int64_t in = 0, out = 0;
  LowRank full;  // of full rank
};

bool matches(const std::vector<std::string>& patterns, const Linear& linear) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return glob_match(pattern, linear.weight->name()) || glob_match(pattern, linear.product->label());
  });
}

Matrix first_rows(const Matrix& matrix, std::int64_t rows) {
  const auto end = matrix.data.begin() + rows * matrix.cols;
  return Matrix(rows, matrix.cols, std::vector<double>(matrix.data.begin(), end));
}

Matrix first_columns(const Matrix& matrix, std::int64_t cols) {
  Matrix result(matrix.rows, cols);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    std::copy_n(matrix.data.begin() + row * matrix.cols, cols, result.data.begin() + row * cols);
  }
  return result;
}

Type thin_type(const Type& type, std::int64_t rank) {
  Type thin = type;
  if (thin.shape && !thin.shape->empty()) thin.shape->back() = Dim{rank, "", ""};
  return thin;
}

// As found, for measuring; or with orthonormal columns, which low bits round better.
enum class Basis : std::uint8_t { kFound, kOrthonormal };

Status factor(Graph& graph, const Target& target, std::int64_t rank, Basis basis = Basis::kFound) {
  const Linear linear = *linear_at(*graph.find(target.output)->producer());
  Matrix into = first_columns(target.full.a, rank), out_of = first_rows(target.full.b, rank);
  if (basis == Basis::kOrthonormal) orthonormalize(into, out_of);
  OF_ASSIGN(Tensor a, from_doubles(linear.weight->constant()->dtype(), {target.in, rank}, into.data));
  NodeSpec spec;
  spec.op_type = "MatMul";
  spec.inputs = {linear.input, graph.add_initializer(linear.weight->name() + "_thin", std::move(a))};
  spec.outputs = {{target.output + "_thin", thin_type(linear.input->type(), rank), false}};
  Node* thin = graph.insert(std::move(spec), linear.product);
  OF_ASSIGN(const Linear made, replace_linear(graph, linear, out_of, nullptr));
  graph.set_input(*made.product, 0, thin->output());
  return {};
}

class LowRankPass final : public Pass {
 public:
  explicit LowRankPass(const PassOptions& options)
      : ratio_(options.number("ratio")),
        target_params_(options.integer("target-params")),
        by_error_(options.text("spread") == "error"),
        refit_(options.flag("refit")),
        min_elements_(options.integer("min-elements")),
        include_(options.patterns("include")),
        exclude_(options.patterns("exclude")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    const bool main = &graph == &context.model().graph();
    const Dataset* data = main ? context.calibration : nullptr;  // inner graphs have no taps
    std::vector<Linear> linears = chosen(graph, context);
    if (linears.empty()) return false;
    OF_ASSIGN(const std::vector<Target> targets, decompose(linears, data, context));
    const std::int64_t budget = budget_of(graph, targets);
    std::vector<RankCurve> curves;
    for (const Target& target : targets) curves.push_back({target.in, target.out, target.full.singular});
    OF_ASSIGN(const std::vector<std::int64_t> ranks, spread(curves, targets, budget, data, context));
    if (std::all_of(ranks.begin(), ranks.end(), [](std::int64_t rank) { return rank == 0; })) {
      context.skipped(graph.name, "no rank below the full one saves anything at this size");
      return false;
    }
    if (data == nullptr) return apply(graph, targets, ranks, context);
    const std::unique_ptr<Model> student = context.model().clone();
    OF_TRY(apply(student->graph(), targets, ranks, context));
    OF_TRY(adopt_refitted(context, *student, refit_));
    return true;
  }

 private:
  std::vector<Linear> chosen(const Graph& graph, PassContext& context) const {
    std::vector<Linear> linears;
    for (const Linear& linear : find_linears(graph)) {
      const std::int64_t elements = linear.in * linear.out;
      if (!include_.empty() && !matches(include_, linear)) continue;
      if (matches(exclude_, linear) || elements < min_elements_) continue;
      if (linear.weight->uses().size() > 1 || linear.weight->graph() != &graph) {
        context.skipped(linear.product->label(), "its weight is shared", linear.weight->constant()->nbytes());
        continue;
      }
      linears.push_back(linear);
    }
    return linears;
  }

  static Result<std::vector<Target>> decompose(const std::vector<Linear>& linears, const Dataset* data,
                                               PassContext& context) {
    std::map<std::string, ValueStatistics> statistics;
    if (data != nullptr) {
      std::set<std::string> inputs;
      for (const Linear& linear : linears) inputs.insert(linear.input->name());
      OF_ASSIGN(statistics, collect_statistics(context.model(), *data, {inputs.begin(), inputs.end()}));
    } else {
      context.note("", "truncated SVD: without calibration data its error is several times that of whitening");
    }
    std::vector<Target> targets(linears.size());
    OF_TRY(
        side_by_side(linears.size(), [&](std::size_t i) { return decompose_one(linears[i], statistics, targets[i]); }));
    return targets;
  }

  static Status decompose_one(const Linear& linear, const std::map<std::string, ValueStatistics>& statistics,
                              Target& target) {
    OF_ASSIGN(const Matrix weight, weight_matrix(linear));
    const std::int64_t full = std::min(linear.in, linear.out);
    target = {linear.product->label(), linear.product->output()->name(), linear.in, linear.out, {}};
    const auto found = statistics.find(linear.input->name());
    if (found != statistics.end() && found->second.gram.rows == linear.in) {
      OF_ASSIGN(target.full, whitened_low_rank(weight, found->second.gram, full));
    } else {
      target.full = low_rank(weight, full);
    }
    return {};
  }

  std::int64_t budget_of(const Graph& graph, const std::vector<Target>& targets) const {
    std::int64_t mine = 0;
    for (const Target& target : targets) mine += target.in * target.out;
    if (target_params_ > 0) return std::max<std::int64_t>(0, target_params_ - (float_parameters(graph) - mine));
    return static_cast<std::int64_t>(std::llround(ratio_ * static_cast<double>(mine)));
  }

  // Several ways to spread the ranks, the one that harms the model least on the data.
  Result<std::vector<std::int64_t>> spread(const std::vector<RankCurve>& curves, const std::vector<Target>& targets,
                                           std::int64_t budget, const Dataset* data, PassContext& context) const {
    std::vector<std::int64_t> best = uniform_ranks(curves, budget);
    if (!by_error_) return best;
    if (data == nullptr) return ranks_by_error(curves, budget, 1, 0.75);
    OF_ASSIGN(const DamageMeter meter, DamageMeter::create(context.model(), *data));
    double least = HUGE_VAL;
    std::string chosen_one, all;
    const auto consider = [&](const std::vector<std::int64_t>& ranks, const std::string& name) -> Status {
      const std::unique_ptr<Model> tried = context.model().clone();
      for (std::size_t i = 0; i < targets.size(); ++i) {
        if (ranks[i] > 0) OF_TRY(factor(tried->graph(), targets[i], ranks[i]));
      }
      OF_ASSIGN(const Damage damage, meter.measure(*tried));
      all += fmt::format("{}{} {:.4f}", all.empty() ? "" : ", ", name, damage.value);
      if (damage.value >= least) return {};
      least = damage.value;
      best = ranks;
      chosen_one = name;
      return {};
    };
    OF_TRY(consider(uniform_ranks(curves, budget), "uniform"));
    OF_TRY(consider(ranks_by_error(curves, budget, 1, 0.9), "by error from 0.9"));
    OF_ASSIGN(const std::vector<double> harm, harms(curves, targets, uniform_ranks(curves, budget), *data, context));
    for (const double floor : {0.75, 0.5}) {
      OF_TRY(consider(ranks_by_harm(curves, budget, harm, floor), fmt::format("by measured harm from {:g}", floor)));
    }
    context.note("", fmt::format("ranks {}: {} of {:.4f} becomes {}", chosen_one, meter.kind_name(),
                                 meter.original().value, all));
    return best;
  }

  // What a unit of squared error in one weight's output does to the outputs of the model: the weight alone is thinned
  // to its rank, and what lies behind it runs again on the first batch.
  static Result<std::vector<double>> harms(const std::vector<RankCurve>& curves, const std::vector<Target>& targets,
                                           const std::vector<std::int64_t>& ranks, const Dataset& data,
                                           PassContext& context) {
    Dataset few = data;
    few.batches.resize(std::min<std::size_t>(1, data.batches.size()));
    few.batch_sizes.resize(few.batches.size());
    const Model& model = context.model();
    OF_ASSIGN(const Recording known, record(model, few, StreamRecord::values(model, StreamUnit::Part::kBlock)));
    OF_ASSIGN(const DamageMeter meter, DamageMeter::create(model, few, DamageMeter::Kind::kKl, &known));
    std::vector<double> harm(targets.size(), 0);
    double total = 0, errors = 0;
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (ranks[i] == 0) continue;
      const std::unique_ptr<Model> tried = model.clone();
      const Linear linear = *linear_at(*tried->graph().find(targets[i].output)->producer());
      const Recording before = recorded_up_to(*tried, known, *linear.input);
      OF_TRY(factor(tried->graph(), targets[i], ranks[i]));
      OF_ASSIGN(const Recording outputs, replay(*tried, few, before, meter.output_names()));
      OF_ASSIGN(const Damage damage, meter.measure(outputs));
      // A KL divergence is a squared distance, a relative error is not.
      const double harmed = meter.kind() == DamageMeter::Kind::kError ? damage.value * damage.value : damage.value;
      const double error = tail_of(curves[i], ranks[i]);
      harm[i] = error > 0 && std::isfinite(harmed) ? std::max(harmed, 0.0) / error : 0;
      total += harm[i] * error;
      errors += error;
      if (context.progress) context.progress(0.5 * static_cast<double>(i + 1) / static_cast<double>(targets.size()));
    }
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (ranks[i] == 0) harm[i] = errors > 0 ? total / errors : 1;  // those that were not thinned: as the others
    }
    return harm;
  }

  static Result<bool> apply(Graph& graph, const std::vector<Target>& targets, const std::vector<std::int64_t>& ranks,
                            PassContext& context) {
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const Target& target = targets[i];
      const auto width = static_cast<std::int64_t>(byte_width(*graph.find(target.output)->producer()));
      const std::int64_t before = target.in * target.out * width;
      if (ranks[i] == 0) {
        context.skipped(target.product, "its rank would not save anything", before);
        continue;
      }
      OF_TRY(factor(graph, target, ranks[i], Basis::kOrthonormal));
      context.applied(target.product, fmt::format("rank {} of {}", ranks[i], std::min(target.in, target.out)), before,
                      ranks[i] * (target.in + target.out) * width);
    }
    return true;
  }

  static std::size_t byte_width(const Node& product) {
    const Tensor* weight = linear_at(product)->weight->constant();
    return static_cast<std::size_t>(weight->nbytes() / std::max<std::int64_t>(1, weight->size()));
  }

  const double ratio_;
  const std::int64_t target_params_;
  const bool by_error_, refit_;
  const std::int64_t min_elements_;
  const std::vector<std::string> include_, exclude_;
};

}  // namespace

std::unique_ptr<Pass> make_low_rank(const PassOptions& options) { return std::make_unique<LowRankPass>(options); }

}  // namespace onnxfold
