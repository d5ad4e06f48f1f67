#include "converter/analyze.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "formats/onnx/onnx_file.h"
#include "formats/onnx/schema.h"

namespace onnxfold {

Result<Analysis> analyze_depth(const AnalyzeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  OF_ASSIGN(const auto model, load_model(options.path));
  OF_TRY(infer_shapes(*model));
  Analysis analysis;
  analysis.path = options.path;
  analysis.generated = options.data.empty();
  Dataset data;
  if (analysis.generated) {
    OF_ASSIGN(data, generate_dataset(*model, options.seed));
  } else {
    DatasetOptions loading;
    loading.max_samples = options.max_samples;
    OF_ASSIGN(data, load_dataset(*model, options.data, loading));
  }
  analysis.data_origin = data.origin;
  for (const std::int64_t size : data.batch_sizes) analysis.samples += size;
  OF_ASSIGN(analysis.depth, measure_depth(*model, data));
  analysis.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return analysis;
}

namespace {

using Json = nlohmann::ordered_json;

Json json_of(const Contribution& contribution) {
  return {{"kind", contribution.kind},
          {"mean", contribution.mean},
          {"max", contribution.max},
          {"cosine", contribution.cosine}};
}

Json json_of(const BlockDepth& block) {
  Json json = {{"label", block.label},
               {"kind", block.kind},
               {"parameters", block.parameters},
               {"contribution", json_of(block.block)},
               {"cosine", block.cosine},
               {"block_influence", 1 - block.cosine},
               {"skip_effect", block.skip_effect}};
  for (const Contribution& sublayer : block.sublayers) json["sublayers"].push_back(json_of(sublayer));
  if (block.without) {
    json["without"] = {
        {"damage", block.without->value}, {"task", block.without->task}, {"macro_influence", block.macro}};
  }
  if (block.parallel) json["parallel_with_next"] = *block.parallel;
  if (block.lens_kl) json["logit_lens"] = {{"kl", *block.lens_kl}, {"top1", block.lens_top1.value_or(0)}};
  return json;
}

}  // namespace

std::string analysis_json(const Analysis& analysis) {
  const DepthReport& depth = analysis.depth;
  Json json = {{"version", 1},
               {"verb", "analyze"},
               {"model", analysis.path},
               {"data", analysis.data_origin},
               {"samples", analysis.samples},
               {"seconds", analysis.seconds},
               {"forward_passes", depth.forward_passes},
               {"damage", depth.damage_kind},
               {"task", depth.task_kind},
               {"original", {{"damage", depth.original.value}, {"task", depth.original.task}}}};
  json["blocks"] = Json::array();
  for (const BlockDepth& block : depth.blocks) json["blocks"].push_back(json_of(block));
  json["linear_map_r2"] = depth.r2;
  json["windows"] = Json::array();
  for (const auto& window : depth.windows) {
    json["windows"].push_back({{"first", window.first}, {"count", window.count}, {"angle", window.arc}});
  }
  if (depth.exit_behind) json["early_exit_behind"] = *depth.exit_behind;
  json["notes"] = Json::array();
  for (const StructureNote& note : depth.notes) json["notes"].push_back({{"node", note.node}, {"reason", note.reason}});
  return json.dump(2) + "\n";
}

}  // namespace onnxfold
