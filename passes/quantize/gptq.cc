// MatMul(x, W), Gemm(x, W, c) => the same on W rounded in blocks so that outputs, not weights, change least (GPTQ).
//
// Conditions: as rtn; calibration data. Lossy. From the front of the model to its end, each group of products of one
// input: H = X_s' X_s of the inputs as the already quantized part makes them; target W' = W + [(Y_t - Y_s)' X_s]
// (H + lambda)^-1, which aims at the teacher's outputs, and where the product is added to a residual stream at the sum
// of both; then the sweep of gptq_sweep.h. Tables, weights in subgraphs and what data do not reach are rounded without
// data. A weight is kept in its data-free form when held-out rows say that is better.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "exec/gemm.h"
#include "ir/match.h"
#include "passes/quantize/calibrated_products.h"
#include "passes/quantize/gptq_sweep.h"
#include "passes/quantize/weight_rewrite.h"

namespace onnxfold {
namespace {

constexpr double kFewTokens = 2;  // a column; below it second moments say little

// ||Y - X W'|| / ||Y||
double output_error(const FloatRows& inputs, const FloatRows& weight, const FloatRows& wanted) {
  FloatRows out(inputs.rows, weight.rows);
  gemm(inputs.rows, weight.rows, inputs.cols, 1.0F, inputs.data.data(), inputs.cols, false, weight.data.data(),
       weight.cols, true, 0.0F, out.data.data(), out.cols);
  double error = 0, total = 0;
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    const auto y = static_cast<double>(wanted.data[i]), miss = y - static_cast<double>(out.data[i]);
    error += miss * miss;
    total += y * y;
  }
  return total > 0 ? std::sqrt(error / total) : 0;
}

// W + correction (H + lambda)^-1 with (H + lambda)^-1 = U'U in the order of the sweep.
FloatRows corrected_target(const FloatRows& weight, const Matrix& correction, const SweepInputs& inputs) {
  const std::int64_t n = weight.cols;
  const auto& columns = inputs.order.columns;
  FloatRows moved(weight.rows, n), half(weight.rows, n), target = weight;
  for (std::int64_t row = 0; row < weight.rows; ++row) {
    for (std::int64_t j = 0; j < n; ++j) {
      moved.row(row)[j] = static_cast<float>(correction.at(row, columns[static_cast<std::size_t>(j)]));
    }
  }
  const float* u = inputs.factor.upper.data();
  gemm(weight.rows, n, n, 1.0F, moved.data.data(), n, false, u, n, true, 0.0F, half.data.data(), n);
  gemm(weight.rows, n, n, 1.0F, half.data.data(), n, false, u, n, false, 0.0F, moved.data.data(), n);
  for (std::int64_t row = 0; row < weight.rows; ++row) {
    for (std::int64_t j = 0; j < n; ++j) target.row(row)[columns[static_cast<std::size_t>(j)]] += moved.row(row)[j];
  }
  return target;
}

struct GptqOptions {
  GptqSettings settings;
  WalkOptions walk;
  double damping = 0;  // 0: chosen from the tokens
};

class Gptq final : public Pass {
 public:
  Gptq(WeightOptions weights, GptqOptions options)
      : weights_(std::move(weights)), options_(options), rewriter_(weights_) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument, "needs data to learn from: give --calibration FILE.npz, or use rtn-search");
    }
    OF_TRY(weights_.check());
    if (graph.parent() == nullptr) OF_TRY(learn(graph, context));
    return rewriter_.run(graph, context, [this](const WeightTarget& target) { return blocks_of(target); });
  }

 private:
  static std::string key(const WeightTarget& target) {
    return fmt::format("{}{}", target.shape.inner != 1 ? "t:" : "r:", target.weight->name());
  }

  Status learn(const Graph& graph, PassContext& context) {
    PassContext unheard(context.model(), "");
    const std::vector<WeightTarget> targets = find_weight_targets(graph, weights_, unheard);
    return walk_products(context.model(), *context.calibration, product_groups(targets), options_.walk,
                         [&](const ProductGroup& group, const GroupMoments& moments) {
                           return quantize_group(group, moments, context);
                         });
  }

  double damping_for(const ProductGroup& group, const GroupMoments& moments, PassContext& context) const {
    const double tokens = static_cast<double>(moments.rows) / static_cast<double>(group.targets.front()->shape.cols);
    if (tokens < kFewTokens) {
      context.note(
          group.targets.front()->node->label(),
          fmt::format("warning: only {:.1f} rows of data a column: damping raised, more data would help", tokens));
    }
    if (options_.damping > 0) return options_.damping;
    return tokens >= kFewTokens ? 0.1 : 0.3;
  }

  Result<std::vector<FloatRows>> quantize_group(const ProductGroup& group, const GroupMoments& moments,
                                                PassContext& context) {
    std::vector<FloatRows> weights(group.targets.size());
    if (moments.rows == 0) {
      context.note(group.targets.front()->node->label(), "no row of the data reaches it: rounded without data");
      return weights;
    }
    const double damping = damping_for(group, moments, context);
    std::map<std::int64_t, SweepInputs> by_block;  // weights of one input may differ in the length of their blocks
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const WeightTarget& target = *group.targets[i];
      if (!learned_.contains(key(target))) {
        const std::int64_t block = target.format.length(moments.gram.rows);
        if (!by_block.contains(block)) {
          OF_ASSIGN(by_block[block], sweep_inputs(moments.gram, block, damping));
        }
        const SweepInputs& inputs = by_block.at(block);
        auto status = quantize(target, moments, moments.products[i], inputs, context);
        if (!status) return fail(status.error().in(fmt::format("weight '{}'", target.weight->name())));
      }
      weights[i] = dequantized(*learned_.at(key(target)), target.format);
    }
    return weights;
  }

  Status quantize(const WeightTarget& target, const GroupMoments& moments, const ProductMoments& product,
                  const SweepInputs& inputs, PassContext& context) {
    GptqSettings settings = options_.settings;
    settings.format = target.format;
    settings.scale_type = target.scale_type();
    const bool corrected = !product.correction.empty();
    OF_ASSIGN(BlockCodes codes,
              corrected ? gptq_sweep(corrected_target(product.weight, product.correction, inputs), inputs, settings)
                        : gptq_sweep(product.weight, inputs, settings));
    OF_ASSIGN(BlockCodes plain, without_data(target));
    const double tokens = static_cast<double>(moments.rows) / static_cast<double>(target.shape.cols);
    std::string text = fmt::format("{:.1f} rows of data a column, damping {:.2g}", tokens, inputs.factor.damping);
    if (moments.held_inputs.rows > 0) {
      const double error = output_error(moments.held_inputs, dequantized(codes, target.format), product.held_target);
      const double other = output_error(moments.held_inputs, dequantized(plain, target.format), product.held_target);
      text += fmt::format(", held-out output error {:.2f} % ({:.2f} % without data)", 100 * error, 100 * other);
      if (other < error) {
        text += "; kept without data";
        codes = std::move(plain);
      }
    }
    if (all_zero(codes) && !all_zero(plain)) {
      text += "; kept without data, the sweep lost all numbers";
      codes = std::move(plain);
    }
    context.note(target.node->label(), text);
    learned_.emplace(key(target), std::make_shared<const BlockCodes>(std::move(codes)));
    return {};
  }

  static bool all_zero(const BlockCodes& codes) {
    return std::all_of(codes.scales.begin(), codes.scales.end(), [](float scale) { return !(std::fabs(scale) > 0); });
  }

  static Result<BlockCodes> without_data(const WeightTarget& target) {
    return quantize_blocks(*constant(target.weight), target.shape, target.format, target.scale_type(),
                           choose_rtn_search);
  }

  std::shared_ptr<LazyBlocks> blocks_of(const WeightTarget& target) const {
    const auto found = learned_.find(key(target));
    if (target.use != WeightUse::kProduct || found == learned_.end()) {
      return std::make_shared<LazyBlocks>(
          target.shape, target.format, part_count(target.format), [weight = *constant(target.weight), target] {
            return quantize_blocks(weight, target.shape, target.format, target.scale_type(), choose_rtn_search);
          });
    }
    return std::make_shared<LazyBlocks>(target.shape, target.format, part_count(target.format),
                                        [codes = found->second]() -> Result<BlockCodes> { return *codes; });
  }

  WeightOptions weights_;
  GptqOptions options_;
  WeightRewriter rewriter_;
  std::map<std::string, std::shared_ptr<const BlockCodes>> learned_;
};

}  // namespace

std::unique_ptr<Pass> make_gptq(const PassOptions& options) {
  WeightOptions weights = weight_options(options);
  GptqOptions chosen;
  chosen.settings.sweep = options.text("quality") == "high";
  chosen.settings.descent = options.text("quality") == "high" ? 3 : 0;
  chosen.walk.teacher = options.flag("target");
  chosen.walk.held_out = options.number("held-out");
  chosen.walk.max_rows = options.integer("max-rows");
  chosen.damping = options.number("damping");
  return std::make_unique<Gptq>(std::move(weights), chosen);
}

}  // namespace onnxfold
