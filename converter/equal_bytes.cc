#include "converter/equal_bytes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "analysis/compare/work.h"
#include "analysis/structure/linear.h"
#include "converter/compress.h"
#include "converter/pipeline.h"

namespace onnxfold {
namespace {

// The result may be a hair larger than asked: scales, padding of the last block.
constexpr double kSlack = 1.01;

struct Width {
  int bits, block;
  const char* options;
};
constexpr std::array kWidths = {Width{8, 32, ""},
                                Width{4, 16, ",symmetric=false,scales=int8"},
                                Width{4, 32, ",scales=int8"},
                                Width{4, 128, ",scales=float16"},
                                Width{2, 16, ",symmetric=false,scales=int8"},
                                Width{2, 64, ",symmetric=false,scales=int8"}};

class Controls {
 public:
  Controls(const Model& before, const Dataset& data, const EqualBytesOptions& options)
      : before_(before), data_(data), options_(options) {}

  Result<EqualBytes> run() {
    const auto start = std::chrono::steady_clock::now();
    result_.data = data_.origin;
    OF_TRY(low_rank());
    if (options_.progress) options_.progress(0.5);
    OF_TRY(quantize());
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  Result<std::unique_ptr<Model>> made_by(const std::string& pass) const {
    std::unique_ptr<Model> model = before_.clone();
    Recipe recipe;
    OF_ASSIGN(RecipeStep step, parse_step(pass));
    recipe.steps.push_back(std::move(step));
    PipelineOptions pipeline;
    pipeline.seed = options_.seed;
    pipeline.calibration = options_.calibration;
    OF_TRY(run_pipeline(*model, recipe, pipeline));
    return model;
  }

  Status low_rank() {
    const std::unique_ptr<Model> plain = before_.clone();
    const std::int64_t before = weight_bytes(*plain), parameters = count_parameters(*plain);
    const double per_parameter = parameters == 0 ? 0 : static_cast<double>(before) / static_cast<double>(parameters);
    const auto target = static_cast<std::int64_t>(static_cast<double>(options_.bytes) / std::max(per_parameter, 1e-9));
    const std::string name = options_.calibration != nullptr ? "low rank, whitened" : "low rank (SVD without data)";
    OF_ASSIGN(const auto model, made_by(fmt::format("low-rank:target-params={},spread=uniform,refit=false",
                                                    std::max<std::int64_t>(target, 1))));
    return add(name, *model);
  }

  // The widest weights that fit.
  Status quantize() {
    const char* pass = options_.calibration != nullptr ? "gptq" : "rtn-search";
    std::unique_ptr<Model> model;
    std::string name;
    for (const Width& width : kWidths) {
      // Rounding to nearest takes the same bytes and no time: it finds the width.
      const std::string shape = fmt::format(":bits={},block={}{}", width.bits, width.block, width.options);
      OF_ASSIGN(model, made_by("rtn" + shape));
      name = fmt::format("{} bits in blocks of {} ({})", width.bits, width.block, width.bits < 8 ? pass : "rtn");
      if (static_cast<double>(weight_bytes(*model)) > kSlack * static_cast<double>(options_.bytes)) continue;
      if (width.bits < 8) {  // at 8 bits nothing is left to search
        OF_ASSIGN(model, made_by(pass + shape));
      }
      return add(name, *model);
    }
    return add(name, *model);
  }

  Status add(const std::string& method, Model& model) {
    const std::int64_t bytes = weight_bytes(model);
    if (static_cast<double>(bytes) > kSlack * static_cast<double>(options_.bytes)) {
      result_.rows.push_back({method, bytes, {}, {}, 0, "cannot be made that small"});
      return {};
    }
    CompareOptions compare;
    compare.padding = false;
    OF_ASSIGN(const Comparison comparison, compare_models(before_, model, data_, compare));
    if (comparison.task) result_.task = comparison.task->kind;
    result_.rows.push_back(equal_bytes_row(method, bytes, comparison));
    return {};
  }

  const Model& before_;
  const Dataset& data_;
  const EqualBytesOptions& options_;
  EqualBytes result_;
};

}  // namespace

double low_rank_work(const Model& before) {
  double work = 0;
  for (const Linear& linear : find_linears(before.graph())) {
    work += static_cast<double>(linear.in) * static_cast<double>(linear.out) *
            static_cast<double>(std::min(linear.in, linear.out));
  }
  return work;
}

Result<EqualBytes> equal_bytes_controls(const Model& before, const Dataset& data, const EqualBytesOptions& options) {
  return Controls(before, data, options).run();
}

EqualBytesRow equal_bytes_row(std::string method, std::int64_t bytes, const Comparison& comparison) {
  EqualBytesRow row{std::move(method), bytes, {}, {}, 0, ""};
  if (comparison.task) row.task = comparison.task->after;
  for (const OutputMetrics& metrics : comparison.outputs) {
    row.rel_l2 = std::max(row.rel_l2, metrics.max_rel_l2);
    if (metrics.kl) row.kl = std::max(row.kl.value_or(0), *metrics.kl);
  }
  return row;
}

}  // namespace onnxfold
