#include "converter/analyze.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "converter/model_files.h"
#include "formats/onnx/onnx_file.h"
#include "formats/onnx/schema.h"
#include "passes/tie/layer_alignment.h"

namespace onnxfold {

namespace {

Result<PartTable> table_of(const std::string& name, const Model& model, const Dataset& data) {
  if (name == "paths") return measure_paths(model, data);
  if (name == "attention") return measure_attention(model, data);
  if (name == "hidden") return measure_hidden(model, data);
  if (name == "lut") return measure_lut(model, data);
  OF_ASSIGN(const auto aligned, with_aligned_layers(model, "all"));
  return linearity_table(model, *aligned);
}

}  // namespace

Result<Analysis> analyze(const AnalyzeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  OF_ASSIGN(const auto model, load_model(options.path));
  OF_TRY(infer_shapes(*model));
  Analysis analysis;
  analysis.path = options.path;
  analysis.generated = options.data.empty();
  OF_ASSIGN(const Dataset data, make_dataset(*model, options.data, options.seed, options.max_samples));
  analysis.data_origin = data.origin;
  for (const std::int64_t size : data.batch_sizes) analysis.samples += size;
  if (options.depth) {
    OF_ASSIGN(analysis.depth, measure_depth(*model, data));
  }
  for (const std::string& name : options.tables) {
    OF_ASSIGN(PartTable table, table_of(name, *model, data));
    analysis.tables.push_back(std::move(table));
  }
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

namespace {

void add_depth(Json& json, const DepthReport& depth);

Json json_of(const PartTable& table) {
  Json rows = Json::array(), notes = Json::array();
  for (const PartRow& row : table.rows) {
    Json one = {{"part", row.part}};
    for (const auto& [name, number] : row.numbers) one[name] = number ? Json(*number) : Json(nullptr);
    one["use"] = row.use;
    rows.push_back(std::move(one));
  }
  for (const StructureNote& note : table.notes) notes.push_back({{"node", note.node}, {"reason", note.reason}});
  return {{"rows", std::move(rows)}, {"notes", std::move(notes)}};
}

}  // namespace

std::string analysis_json(const Analysis& analysis) {
  Json json = {{"version", 1},
               {"verb", "analyze"},
               {"model", analysis.path},
               {"data", analysis.data_origin},
               {"samples", analysis.samples},
               {"seconds", analysis.seconds}};
  if (analysis.depth) add_depth(json, *analysis.depth);
  for (const PartTable& table : analysis.tables) json[table.name] = json_of(table);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

namespace {

void add_depth(Json& json, const DepthReport& depth) {
  json["forward_passes"] = depth.forward_passes;
  json["damage"] = depth.damage_kind;
  json["task"] = depth.task_kind;
  json["original"] = {{"damage", depth.original.value}, {"task", depth.original.task}};
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
}

}  // namespace

}  // namespace onnxfold
