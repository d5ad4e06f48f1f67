// Mixed precision as recipes: which formats the weights of a model could have, what each costs, and the step of a
// recipe that stores them so.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "converter/pipeline.h"
#include "formats/onnx/onnx_file.h"
#include "passes/quantize/sensitivity.h"

namespace onnxfold {

// One way to store the weights.
struct FormatPlan {
  std::string name;               // for people
  RecipeStep step;                // of the quantizer, with its formats
  std::int64_t weight_bytes = 0;  // of the weights that can be quantized
  double damage = 0;              // predicted: the sum over the weights
};

struct MixedFormatsOptions {
  const Model* before = nullptr;
  Recipe recipe;                  // with a weight-only quantizer or not; empty: clean-up and the default quantizer
  const Dataset* data = nullptr;  // to measure sensitivities on; null: weight errors stand for them
  bool learns = false;            // there is data that gptq can learn from
  SaveOptions save;
  std::string source_hash;
  PipelineOptions pipeline;
  std::function<void(const std::string& phase, double done)> progress;
};

class MixedFormats {
 public:
  // Runs what the recipe has in front of its quantizer, and measures. Errors: those of the passes and of
  // measure_sensitivity; invalid_argument when the recipe's quantizer cannot mix or there is nothing to quantize.
  static Result<MixedFormats> create(const MixedFormatsOptions& options);

  const Sensitivity& sensitivity() const { return sensitivity_; }
  std::int64_t elements() const { return elements_; }
  double bits(std::int64_t weight_bytes) const;

  // All weights in one format, least damage first.
  std::vector<FormatPlan> uniform() const;
  // Least damage for these bytes. Errors: invalid_argument when nothing is that small.
  Result<FormatPlan> mixed(std::int64_t weight_bytes) const;
  // The same without any weight in a smaller format than `floor` has (see uniform()).
  Result<FormatPlan> upgraded(const FormatPlan& floor, std::int64_t weight_bytes) const;
  std::int64_t least_weight_bytes() const;

  // Recipe of the whole model.
  Recipe recipe(const FormatPlan& plan) const;
  // The model as the recipe makes it, learning from `calibration` (may be null).
  Result<std::unique_ptr<Model>> build(const FormatPlan& plan, const Dataset* calibration) const;
  // Bytes of its file, to the byte where the quantizer adds no nodes of its own; nothing is learned or rounded.
  Result<std::int64_t> file_bytes(const FormatPlan& plan) const;
  Result<std::int64_t> file_bytes(Model& model, const FormatPlan& plan) const;
  // The model without the quantizer.
  const Recipe& without() const { return front_; }

 private:
  Status split_recipe();
  Result<WeightOptions> weights() const;
  FormatPlan plan_of(const std::vector<const FormatDamage*>& formats, const std::string& name) const;
  Result<FormatPlan> allocate(std::int64_t weight_bytes, const std::vector<std::int64_t>& least,
                              const std::string& name) const;
  Result<std::unique_ptr<Model>> run(RecipeStep step, const Dataset* calibration) const;

  MixedFormatsOptions options_;
  Recipe front_, back_;
  RecipeStep quantizer_;
  std::vector<BlockFormat> formats_;
  std::shared_ptr<Model> prepared_;
  Sensitivity sensitivity_;
  std::int64_t elements_ = 0;
};

}  // namespace onnxfold
