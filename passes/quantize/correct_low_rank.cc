// y = Op(x, Wq) => y = Op(x, Wq) + (x A) B: a thin pair beside each quantized weight makes good what rounding took.
//
// A B is the best approximation of rank r of the residual W - Wq: with calibration data of X (W - Wq) (whitened by the
// inputs, SVD-LLM, arXiv 2403.07378; LQER, arXiv 2402.02446), else of the residual itself. W comes from the model
// before the first lossy pass, found by the name of the product's result. Conditions: MatMul, Gemm (alpha 1) or
// MatMulNBits with a constant quantized weight; the pair is smaller than the float weight. Kept only where the output
// error on held-out rows falls, and none when the outputs of the model do not come nearer there (without data: all that
// the weights alone speak for). The pair is stored in float16 behind a Cast unless asked otherwise. Lossy.
#include <fmt/format.h>

#include <cmath>
#include <map>

#include "analysis/algebra/low_rank.h"
#include "analysis/heal/outcome.h"
#include "ir/match.h"
#include "ir/numeric.h"
#include "passes/pass.h"
#include "passes/quantize/calibrated_products.h"
#include "passes/quantize/decoded_weight.h"
#include "passes/quantize/quantized_result.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr double kDamping = 0.01;  // of the mean second moment

struct Job {
  Node* product = nullptr;               // of the quantized model
  const WeightTarget* before = nullptr;  // of the model before
};

struct PairOfFactors {
  Matrix a, b;
  double before = 0, after = 0;  // relative error without and with it
  bool measured = false;         // on data
  std::int64_t bytes = 0;
};

Matrix from_rows(const FloatRows& rows) {
  return Matrix(rows.rows, rows.cols, std::vector<double>(rows.data.begin(), rows.data.end()));
}

// What a quantized product multiplies by, [in, out]; empty: not known.
Result<Matrix> decoded(const Node& node) {
  Tensor tensor;
  bool by_rows = false;  // [out, in]
  if (node.is("MatMulNBits", "com.microsoft")) {
    const DecodedWeight weight = decode_product(node, /*by_rows=*/false);
    if (!weight.why.empty()) return Matrix();
    tensor = weight.tensor;
  } else {
    OF_ASSIGN(const auto weight, constant_value(node.input(1)));
    if (!weight || weight->rank() != 2) return Matrix();
    tensor = *weight;
    by_rows = node.attr_int("transB", 0) != 0;
  }
  OF_ASSIGN(std::vector<double> numbers, to_doubles(tensor));
  Matrix matrix(tensor.dims()[0], tensor.dims()[1], std::move(numbers));
  return by_rows ? transposed(matrix) : matrix;
}

bool is_plain_product(const Node& node) {
  if (node.is("MatMulNBits", "com.microsoft") || node.is("MatMul")) return true;
  return node.is("Gemm") && node.attr_float("alpha", 1) == 1 && node.attr_int("transA", 0) == 0;
}

class CorrectLowRank final : public Pass {
 public:
  CorrectLowRank(std::int64_t rank, bool half) : rank_(rank), half_(half) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (graph.parent() != nullptr) return false;
    if (context.reference == nullptr) {
      context.note("model", "nothing was quantized before, so there is no residual to correct");
      return false;
    }
    PassContext unheard(context.model(), "");
    WeightOptions all;
    all.standard = true;  // takes every spelling
    all.min_elements = 1;
    const std::vector<WeightTarget> targets = find_weight_targets(context.reference->graph(), all, unheard);
    const std::vector<Job> jobs = find_jobs(graph, targets, context);
    if (jobs.empty()) return false;
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      for (const Job& job : jobs) OF_TRY(correct(job, nullptr, context));
      return apply(graph, context);
    }
    OF_TRY(walk(jobs, context));
    OF_ASSIGN(const bool better, outputs_come_nearer(context));
    return better ? apply(graph, context) : Result<bool>(false);
  }

 private:
  static std::vector<Job> find_jobs(const Graph& graph, const std::vector<WeightTarget>& targets,
                                    PassContext& context) {
    std::map<std::string, const WeightTarget*> by_result;
    for (const WeightTarget& target : targets) {
      if (target.use == WeightUse::kProduct) by_result[target.node->output()->name()] = &target;
    }
    std::vector<Job> jobs;
    for (const QuantizedResult& result : find_quantized_results(graph)) {
      if (!is_plain_product(*result.product)) continue;
      auto found = by_result.find(result.product->output()->name());
      if (found == by_result.end()) found = by_result.find(result.value->name());
      if (found != by_result.end()) {
        jobs.push_back({result.product, found->second});
      } else {
        context.skipped(result.product->label(), "the model before has no such product");
      }
    }
    return jobs;
  }

  // Inputs as the model before makes them.
  Status walk(const std::vector<Job>& jobs, PassContext& context) {
    std::vector<WeightTarget> wanted;
    for (const Job& job : jobs) wanted.push_back(*job.before);
    WalkOptions options;
    options.teacher = false;
    options.held_out = 0.125;
    std::map<const Node*, const Job*> by_node;
    for (const Job& job : jobs) by_node[job.before->node] = &job;
    return walk_products(*context.reference, *context.calibration, product_groups(wanted), options,
                         [&](const ProductGroup& group, const GroupMoments& moments) -> Result<std::vector<FloatRows>> {
                           for (const WeightTarget* target : group.targets) {
                             OF_TRY(correct(*by_node.at(target->node), &moments, context));
                           }
                           return std::vector<FloatRows>(group.targets.size());
                         });
  }

  Result<bool> outputs_come_nearer(PassContext& context) {
    if (pairs_.empty()) return false;
    const auto trial = context.model().clone();
    PassContext unheard(*trial, "");
    OF_TRY(apply(trial->graph(), unheard));
    OF_ASSIGN(const auto damage,
              held_out_damage(*context.reference, *context.calibration, {&context.model(), trial.get()}));
    if (damage[1] < damage[0]) return true;
    context.note("model", fmt::format("no pair added: results come nearer one by one, but the outputs go away (damage "
                                      "{:.3g}, was {:.3g})",
                                      damage[1], damage[0]));
    return false;
  }

  Result<bool> apply(Graph& graph, PassContext& context) const {
    for (const auto& [name, pair] : pairs_) {
      Node& product = *graph.find(name)->producer();
      const std::string label = product.label();
      OF_TRY(insert(graph, product, pair));
      context.note(label,
                   fmt::format("rank {} beside it, {} bytes: {} error {:.2f} % (was {:.2f} %)", rank_, pair.bytes,
                               pair.measured ? "held-out output" : "weight", 100 * pair.after, 100 * pair.before));
    }
    return !pairs_.empty();
  }

  Status correct(const Job& job, const GroupMoments* moments, PassContext& context) {
    const std::string label = job.product->label();
    const std::int64_t in = job.before->shape.cols, out = job.before->shape.rows;
    const std::int64_t bytes = (in + out) * rank_ * (half_ ? 2 : 4);
    if (rank_ >= std::min(in, out) || bytes >= constant(job.before->weight)->nbytes()) {
      context.skipped(label, "the pair would be no smaller than the float weight");
      return {};
    }
    if (moments != nullptr && (moments->rows < rank_ || moments->held_inputs.rows == 0)) {
      context.skipped(label, "too few rows of data reach it");
      return {};
    }
    OF_ASSIGN(Matrix residual, decoded(*job.product));
    OF_ASSIGN(const FloatRows rows, weight_rows(*job.before));
    const Matrix weight = transposed(from_rows(rows));
    if (residual.rows != weight.rows || residual.cols != weight.cols) {
      context.skipped(label, "its weight has other dimensions than before");
      return {};
    }
    residual = sum(weight, residual, -1);
    OF_ASSIGN(PairOfFactors pair, factors_of(residual, weight, moments));
    if (!(pair.after < pair.before)) {
      context.skipped(label, "the held-out error does not fall");
      return {};
    }
    pair.bytes = bytes;
    pairs_.emplace_back(job.product->output()->name(), std::move(pair));
    return {};
  }

  Result<PairOfFactors> factors_of(const Matrix& residual, const Matrix& weight, const GroupMoments* moments) const {
    PairOfFactors pair;
    LowRank found;
    if (moments != nullptr) {
      OF_ASSIGN(found, whitened_low_rank(residual, moments->gram, rank_, kDamping));
    } else {
      found = low_rank(residual, rank_);
    }
    // Singular values are shared between both, so that neither leaves the range of float16.
    for (std::int64_t k = 0; k < found.a.cols; ++k) {
      double one = 0, two = 0;
      for (std::int64_t i = 0; i < found.a.rows; ++i) one += found.a.at(i, k) * found.a.at(i, k);
      for (std::int64_t j = 0; j < found.b.cols; ++j) two += found.b.at(k, j) * found.b.at(k, j);
      if (!(one > 0) || !(two > 0)) continue;
      const double share = std::sqrt(std::sqrt(two / one));
      for (std::int64_t i = 0; i < found.a.rows; ++i) found.a.at(i, k) *= share;
      for (std::int64_t j = 0; j < found.b.cols; ++j) found.b.at(k, j) /= share;
    }
    pair.a = rounded(found.a);
    pair.b = rounded(found.b);
    const Matrix left = sum(residual, product(pair.a, pair.b), -1);
    if (moments == nullptr) {
      pair.before = frobenius_norm(residual) / std::max(frobenius_norm(weight), 1e-300);
      pair.after = frobenius_norm(left) / std::max(frobenius_norm(weight), 1e-300);
      return pair;
    }
    const Matrix inputs = from_rows(moments->held_inputs);
    const double total = std::max(frobenius_norm(product(inputs, weight)), 1e-300);
    pair.before = frobenius_norm(product(inputs, residual)) / total;
    pair.after = frobenius_norm(product(inputs, left)) / total;
    pair.measured = true;
    return pair;
  }

  Matrix rounded(Matrix matrix) const {
    for (double& x : matrix.data) x = round_to(half_ ? DType::kFloat16 : DType::kFloat32, x);
    return matrix;
  }

  Result<Value*> stored(Graph& graph, const Matrix& matrix, DType wanted, const std::string& name,
                        const Node& before) const {
    const DType type = half_ ? DType::kFloat16 : wanted;
    OF_ASSIGN(Tensor tensor, from_doubles(type, {matrix.rows, matrix.cols}, matrix.data));
    Value* value = add_constant(graph, std::move(tensor), name);
    if (type == wanted) return value;
    NodeSpec cast{"Cast", {value}, {{name + "_wide", Type::tensor(wanted, {matrix.rows, matrix.cols})}}, {}, "", ""};
    cast.attributes.emplace_back("to", static_cast<std::int64_t>(wanted));
    return graph.insert(std::move(cast), &before)->output();
  }

  Status insert(Graph& graph, Node& node, const PairOfFactors& pair) const {
    const std::string name = node.output()->name();
    Value& input = *node.input(0);
    OF_ASSIGN(Value * a, stored(graph, pair.a, input.dtype(), name + "_low_rank_a", node));
    OF_ASSIGN(Value * b, stored(graph, pair.b, input.dtype(), name + "_low_rank_b", node));
    Type thin = node.output()->type();
    if (thin.shape && !thin.shape->empty()) thin.shape->back() = Dim{pair.a.cols, "", ""};
    Node* first = graph.insert({"MatMul", {&input, a}, {{name + "_thin", thin}}, {}, "", ""}, &node);
    Node* second = graph.insert(
        {"MatMul", {first->output(), b}, {{name + "_low_rank", node.output()->type()}}, {}, "", ""}, &node);
    add_behind(graph, node, *second->output());
    return {};
  }

  std::int64_t rank_;
  bool half_;
  std::vector<std::pair<std::string, PairOfFactors>> pairs_;  // by name of the product's result
};

}  // namespace

std::unique_ptr<Pass> make_correct_low_rank(const PassOptions& options) {
  return std::make_unique<CorrectLowRank>(options.integer("rank"), options.text("store") == "float16");
}

}  // namespace onnxfold
