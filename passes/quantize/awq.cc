// y = Linear(P(x)) => y = Linear'(P'(x)) with columns of its weight scaled by s and channels of P divided by s, then
// rounded as rtn-search does, with the largest weights of a block clipped where that helps (AWQ, arXiv 2306.00978).
//
// s_j = mean|x_j|^a / sqrt(max min), a from 0 to 0.95 by least output error of all products that read x, on rows that
// are not used to judge. Folded exactly where it folds (channel_scale.h: norms, earlier Linears, value to output
// projection); elsewhere the weight is not scaled, with a remark. Clipping: per row and block one of 11 limits from all
// to half of the largest weight, by the block's own part of the output error; a weight's clipping is kept only when
// held-out rows say so. Conditions: as rtn; calibration data. Lossy.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "exec/gemm.h"
#include "exec/parallel.h"
#include "ir/match.h"
#include "passes/quantize/calibrated_products.h"
#include "passes/quantize/channel_scale.h"
#include "passes/quantize/gptq_sweep.h"
#include "passes/quantize/weight_rewrite.h"

namespace onnxfold {
namespace {

constexpr int kExponents = 20;     // of the mean magnitude: 0, 1/20, ... 19/20
constexpr int kClips = 11;         // limits: 1, 0.95, ... 0.5 of the largest weight
constexpr double kHeldOut = 0.25;  // of the rows: half to choose exponents, half to judge

// By row and block: which limit.
using Clips = std::vector<std::uint8_t>;

float clip_ratio(std::uint8_t index) { return 1.0F - 0.05F * static_cast<float>(index); }

void clip_rows(FloatRows& weight, std::int64_t block, const Clips& clips) {
  const std::int64_t blocks = (weight.cols + block - 1) / block;
  parallel_for(weight.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::uint8_t index = clips[static_cast<std::size_t>(row * blocks + b)];
        if (index == 0) continue;
        float* from = weight.row(row) + b * block;
        float* to = weight.row(row) + std::min(weight.cols, (b + 1) * block);
        float most = 0;
        for (const float* at = from; at != to; ++at) most = std::max(most, std::fabs(*at));
        most *= clip_ratio(index);
        for (float* at = from; at != to; ++at) *at = std::clamp(*at, -most, most);
      }
    }
  });
}

Result<BlockCodes> round_rows(const FloatRows& weight, const WeightTarget& target) {
  const auto bytes = std::as_bytes(std::span(weight.data));
  const Tensor tensor = Tensor::owned(DType::kFloat32, {weight.rows, weight.cols}, Buffer(bytes.begin(), bytes.end()));
  return quantize_blocks(tensor, {weight.rows, weight.cols, 1}, target.format, target.scale_type(), choose_rtn_search);
}

// ||X (W - Q)'||^2
double squared_error(const FloatRows& inputs, const FloatRows& difference) {
  FloatRows out(inputs.rows, difference.rows);
  gemm(inputs.rows, difference.rows, inputs.cols, 1.0F, inputs.data.data(), inputs.cols, false, difference.data.data(),
       difference.cols, true, 0.0F, out.data.data(), out.cols);
  double sum = 0;
  for (const float x : out.data) sum += static_cast<double>(x) * static_cast<double>(x);
  return sum;
}

FloatRows scaled(const FloatRows& weight, const std::vector<double>& factors, bool divide) {
  FloatRows out = weight;
  for (std::int64_t row = 0; row < out.rows; ++row) {
    for (std::int64_t j = 0; j < out.cols; ++j) {
      const double s = factors[static_cast<std::size_t>(j)], w = static_cast<double>(out.row(row)[j]);
      out.row(row)[j] = static_cast<float>(divide ? w / s : w * s);
    }
  }
  return out;
}

FloatRows minus(FloatRows a, const FloatRows& b) {
  for (std::size_t i = 0; i < a.data.size(); ++i) a.data[i] -= b.data[i];
  return a;
}

class Awq final : public Pass {
 public:
  Awq(WeightOptions weights, bool clip) : weights_(std::move(weights)), clip_(clip), rewriter_(weights_) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (context.calibration == nullptr || context.calibration->batches.empty()) {
      return fail(Code::kInvalidArgument, "needs data to see activations on: give --calibration FILE.npz");
    }
    bool scaled_any = false;
    if (graph.parent() == nullptr) {
      OF_TRY(weights_.check());
      OF_TRY(learn(graph, context));
      OF_ASSIGN(scaled_any, scale(graph));
    }
    OF_ASSIGN(const bool rounded,
              rewriter_.run(graph, context, [this](const WeightTarget& target) { return blocks_of(target); }));
    return scaled_any || rounded;
  }

 private:
  // What the finder says of a weight before and after scaling.
  static std::string key(const WeightTarget& target) { return target.node->output()->name(); }

  Status learn(Graph& graph, PassContext& context) {
    PassContext unheard(context.model(), "");
    const std::vector<WeightTarget> targets = find_weight_targets(graph, weights_, unheard);
    const ScaleSites sites(graph);
    std::map<std::string, ScaleSite> by_name;
    for (ScaleSite& site : sites.find(nullptr)) {
      const Value* read = site.readers.front().input;
      const bool one_group = std::all_of(site.readers.begin(), site.readers.end(),
                                         [read](const Linear& reader) { return reader.input == read; });
      if (one_group) by_name.emplace(read->name(), std::move(site));
    }
    const std::vector<ProductGroup> groups = product_groups(targets);
    WalkOptions walk;
    walk.teacher = false;
    walk.held_out = kHeldOut;
    std::size_t done = 0;
    return walk_products(
        context.model(), *context.calibration, groups, walk,
        [&](const ProductGroup& group, const GroupMoments& moments) -> Result<std::vector<FloatRows>> {
          const auto site = by_name.find(group.input->name());
          OF_TRY(learn_group(group, moments, site != by_name.end() ? &site->second : nullptr, context));
          if (context.progress) {
            context.progress(static_cast<double>(++done) / static_cast<double>(groups.size()));
          }
          return std::vector<FloatRows>(group.targets.size());
        });
  }

  Status learn_group(const ProductGroup& group, const GroupMoments& moments, const ScaleSite* site,
                     PassContext& context) {
    const std::string label = group.targets.front()->node->label();
    if (moments.held_inputs.rows < 8) {
      context.note(label, "too few rows of the data reach it: rounded without data");
      return {};
    }
    const FloatRows choose = chosen_rows(moments.held_inputs, [](std::int64_t i) { return i % 2 == 0; });
    std::vector<double> factors(static_cast<std::size_t>(choose.cols), 1.0);
    if (site != nullptr && site->channels() == choose.cols) {
      OF_ASSIGN(factors, choose_factors(group, moments, *site, choose, context));
    } else {
      context.note(label, "not scaled: what makes its input is no norm or Linear that can be divided");
    }
    if (!clip_) return {};
    for (std::size_t i = 0; i < group.targets.size(); ++i) {
      OF_TRY(choose_clips(*group.targets[i], moments.products[i].weight, moments, factors, context));
    }
    return {};
  }

  Result<std::vector<double>> choose_factors(const ProductGroup& group, const GroupMoments& moments,
                                             const ScaleSite& site, const FloatRows& choose, PassContext& context) {
    std::vector<double> mean(static_cast<std::size_t>(choose.cols));
    for (std::int64_t row = 0; row < choose.rows; ++row) {
      for (std::int64_t j = 0; j < choose.cols; ++j) {
        mean[static_cast<std::size_t>(j)] += std::fabs(static_cast<double>(choose.row(row)[j]));
      }
    }
    share_by_column(site, mean);
    const FloatRows judge = chosen_rows(moments.held_inputs, [](std::int64_t i) { return i % 2 == 1; });
    std::vector<double> best(mean.size(), 1.0);
    double least = 0;
    int chosen = 0;
    for (int i = 0; i < kExponents; ++i) {
      const std::vector<double> factors = factors_of(mean, static_cast<double>(i) / kExponents);
      OF_ASSIGN(const double error, error_with(group, moments, factors, choose));
      if (i != 0 && !(error < least)) continue;
      least = error;
      best = factors;
      chosen = i;
    }
    OF_ASSIGN(const double before, error_with(group, moments, std::vector<double>(mean.size(), 1.0), judge));
    OF_ASSIGN(const double after, error_with(group, moments, best, judge));
    if (chosen == 0 || !(after < before)) {
      context.note(site.value->name(), "not scaled: no exponent lowers the held-out error");
      return std::vector<double>(mean.size(), 1.0);
    }
    context.note(site.value->name(), fmt::format("scaled by magnitude^{:.2f}: held-out error {:.2f} % (was {:.2f} %)",
                                                 static_cast<double>(chosen) / kExponents, 100 * std::sqrt(after),
                                                 100 * std::sqrt(before)));
    factors_[site.value->name()] = best;
    return best;
  }

  static std::vector<double> factors_of(const std::vector<double>& mean, double exponent) {
    double most = 0;
    for (const double x : mean) most = std::max(most, x);
    if (!(most > 0) || exponent == 0) return std::vector<double>(mean.size(), 1.0);
    std::vector<double> factors;
    double low = 1e300, high = 0;
    for (const double x : mean) {
      factors.push_back(std::pow(std::max(x / most, 1e-4), exponent));
      low = std::min(low, factors.back());
      high = std::max(high, factors.back());
    }
    const double middle = std::sqrt(low * high);
    for (double& s : factors) s /= middle;
    return factors;
  }

  // Mean of the products' relative squared errors.
  static Result<double> error_with(const ProductGroup& group, const GroupMoments& moments,
                                   const std::vector<double>& factors, const FloatRows& inputs) {
    double sum = 0;
    for (std::size_t i = 0; i < group.targets.size(); ++i) {
      const FloatRows& weight = moments.products[i].weight;
      OF_ASSIGN(const BlockCodes codes, round_rows(scaled(weight, factors, false), *group.targets[i]));
      const FloatRows rounded = scaled(dequantized(codes, group.targets[i]->format), factors, true);
      const double total = squared_error(inputs, weight);
      if (total > 0) sum += squared_error(inputs, minus(weight, rounded)) / total;
    }
    return sum / static_cast<double>(group.targets.size());
  }

  // Errors of every row and block, d' G_b d.
  static std::vector<double> block_errors(const FloatRows& difference, const Matrix& gram, std::int64_t block) {
    const std::int64_t blocks = (difference.cols + block - 1) / block;
    std::vector<double> errors(static_cast<std::size_t>(difference.rows * blocks));
    for (std::int64_t b = 0; b < blocks; ++b) {
      const std::int64_t first = b * block, width = std::min(block, difference.cols - first);
      std::vector<float> part(static_cast<std::size_t>(width * width));
      for (std::int64_t i = 0; i < width; ++i) {
        for (std::int64_t j = 0; j < width; ++j) {
          part[static_cast<std::size_t>(i * width + j)] = static_cast<float>(gram.at(first + i, first + j));
        }
      }
      FloatRows turned(difference.rows, width);
      gemm(difference.rows, width, width, 1.0F, difference.data.data() + first, difference.cols, false, part.data(),
           width, false, 0.0F, turned.data.data(), width);
      for (std::int64_t row = 0; row < difference.rows; ++row) {
        double sum = 0;
        for (std::int64_t j = 0; j < width; ++j) {
          sum += static_cast<double>(turned.row(row)[j]) * static_cast<double>(difference.row(row)[first + j]);
        }
        errors[static_cast<std::size_t>(row * blocks + b)] = sum;
      }
    }
    return errors;
  }

  Status choose_clips(const WeightTarget& target, const FloatRows& original, const GroupMoments& moments,
                      const std::vector<double>& factors, PassContext& context) {
    const FloatRows weight = scaled(original, factors, false);
    const std::int64_t block = target.format.length(weight.cols);
    Matrix gram = moments.gram;  // of the inputs divided by the factors
    for (std::int64_t i = 0; i < gram.rows; ++i) {
      for (std::int64_t j = 0; j < gram.cols; ++j) {
        gram.at(i, j) /= factors[static_cast<std::size_t>(i)] * factors[static_cast<std::size_t>(j)];
      }
    }
    const auto count = static_cast<std::size_t>(weight.rows * ((weight.cols + block - 1) / block));
    Clips best(count, 0);
    std::vector<double> least;
    FloatRows plain;
    for (std::uint8_t index = 0; index < kClips; ++index) {
      FloatRows tried = weight;
      clip_rows(tried, block, Clips(count, index));
      OF_ASSIGN(const BlockCodes codes, round_rows(tried, target));
      FloatRows rounded = dequantized(codes, target.format);
      const std::vector<double> errors = block_errors(minus(weight, rounded), gram, block);
      if (index == 0) {
        least = errors;
        plain = std::move(rounded);
        continue;
      }
      for (std::size_t i = 0; i < count; ++i) {
        if (errors[i] < least[i]) {
          least[i] = errors[i];
          best[i] = index;
        }
      }
    }
    return keep_if_better(target, weight, plain, std::move(best), moments, factors, context);
  }

  Status keep_if_better(const WeightTarget& target, const FloatRows& weight, const FloatRows& plain, Clips clips,
                        const GroupMoments& moments, const std::vector<double>& factors, PassContext& context) {
    FloatRows inputs = scaled(moments.held_inputs, factors, true);
    FloatRows tried = weight;
    clip_rows(tried, target.format.length(weight.cols), clips);
    OF_ASSIGN(const BlockCodes codes, round_rows(tried, target));
    const double total = squared_error(inputs, weight);
    const double before = squared_error(inputs, minus(weight, plain));
    const double after = squared_error(inputs, minus(weight, dequantized(codes, target.format)));
    const auto percent = [&](double error) { return total > 0 ? 100 * std::sqrt(error / total) : 0.0; };
    const double tokens = static_cast<double>(moments.rows) / static_cast<double>(target.shape.cols);
    std::string text = fmt::format("{:.1f} rows of data a column, held-out output error {:.2f} %", tokens,
                                   percent(std::min(before, after)));
    if (after < before) {
      text += fmt::format(", clipped ({:.2f} % without)", percent(before));
      clips_[key(target)] = std::make_shared<const Clips>(std::move(clips));
    }
    context.note(target.node->label(), text);
    return {};
  }

  Result<bool> scale(Graph& graph) {
    ScaleSites sites(graph);
    bool any = false;
    for (const auto& [name, factors] : factors_) {
      Value* value = graph.find(name);
      const auto site = value != nullptr ? sites.at(*value) : std::nullopt;
      if (!site) return fail(Code::kInternal, fmt::format("'{}' cannot be rescaled any more", name));
      OF_TRY(sites.apply(*site, factors));
      any = true;
    }
    return any;
  }

  std::shared_ptr<LazyBlocks> blocks_of(const WeightTarget& target) const {
    const auto found = clips_.find(key(target));
    const bool clipped = target.use == WeightUse::kProduct && found != clips_.end();
    const std::shared_ptr<const Clips> clips = clipped ? found->second : nullptr;
    const Tensor weight = *constant(target.weight);
    return std::make_shared<LazyBlocks>(
        target.shape, target.format, part_count(target.format),
        [weight, clips, shape = target.shape, format = target.format,
         type = target.scale_type()]() -> Result<BlockCodes> {
          if (clips == nullptr) return quantize_blocks(weight, shape, format, type, choose_rtn_search);
          OF_ASSIGN(FloatRows rows, weight_rows(weight, shape));
          clip_rows(rows, format.length(rows.cols), *clips);
          const auto bytes = std::as_bytes(std::span(rows.data));
          const Tensor tensor =
              Tensor::owned(DType::kFloat32, {rows.rows, rows.cols}, Buffer(bytes.begin(), bytes.end()));
          return quantize_blocks(tensor, {rows.rows, rows.cols, 1}, format, type, choose_rtn_search);
        });
  }

  WeightOptions weights_;
  bool clip_;
  WeightRewriter rewriter_;
  std::map<std::string, std::vector<double>> factors_;         // by name of the value
  std::map<std::string, std::shared_ptr<const Clips>> clips_;  // by name of the product's result
};

}  // namespace

std::unique_ptr<Pass> make_awq(const PassOptions& options) {
  return std::make_unique<Awq>(weight_options(options), options.flag("clip"));
}

}  // namespace onnxfold
