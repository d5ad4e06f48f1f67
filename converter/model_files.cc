#include "converter/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "converter/compress.h"
#include "converter/version.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;

void set_metadata(Metadata& metadata, const std::string& key, std::string value) {
  const auto found =
      std::find_if(metadata.begin(), metadata.end(), [&](const auto& entry) { return entry.first == key; });
  if (found != metadata.end()) {
    found->second = std::move(value);
  } else {
    metadata.emplace_back(key, std::move(value));
  }
}

}  // namespace

Result<LoadedModel> load_with_facts(const std::string& path, Hashing hashing) {
  LoadedModel loaded;
  LoadStats stats;
  OF_ASSIGN(loaded.model, load_model(path, &stats));
  std::vector<std::string> files = {path};
  files.insert(files.end(), stats.external_files.begin(), stats.external_files.end());
  if (hashing == Hashing::kYes) {
    OF_ASSIGN(loaded.facts.xxh128, hash_files(files));
  }
  loaded.facts.path = path;
  loaded.facts.bytes = stats.file_bytes + stats.external_bytes;
  loaded.facts.external_bytes = stats.external_bytes;
  loaded.facts.dead_bytes = stats.dead_bytes;
  loaded.facts.nodes = node_count(*loaded.model);
  loaded.facts.weight_bytes = weight_bytes(*loaded.model);
  return loaded;
}

Status check_target(const std::string& path, bool may_exist) {
  std::error_code error;
  const fs::path target(path);
  const fs::file_status status = fs::status(target, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return fail(Code::kIo, fmt::format("cannot write '{}': it is not a regular file", path));
  }
  if (fs::exists(status) && !may_exist) {
    return fail(Code::kInvalidArgument, fmt::format("'{}' exists; --force overwrites it", path));
  }
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
  if (!fs::is_directory(folder, error)) {
    return fail(Code::kIo, fmt::format("cannot write '{}': '{}' is not a folder", path, folder.string()));
  }
  return {};
}

Status save_with_facts(const Model& model, const std::string& path, const SaveOptions& options, ModelFacts& facts) {
  OF_ASSIGN(const SaveStats stats, save_model(model, path, options));
  facts.bytes = stats.file_bytes + stats.external_bytes;
  facts.external_bytes = stats.external_bytes;
  std::vector<std::string> files = {path};
  if (stats.external_bytes > 0) {
    const fs::path folder = fs::path(path).parent_path();
    const std::string name =
        options.external_name.empty() ? fs::path(path).filename().string() + ".data" : options.external_name;
    files.push_back((folder / name).string());
  }
  OF_ASSIGN(facts.xxh128, hash_files(files));
  return {};
}

std::string failed_name(const std::string& target) {
  const fs::path path(target);
  return (path.parent_path() / (path.stem().string() + ".failed" + path.extension().string())).string();
}

void stamp(Model& model, const std::string& recipe, const std::string& source_hash) {
  set_metadata(model.metadata, "onnxfold.version", std::string(version()));
  set_metadata(model.metadata, "onnxfold.recipe", recipe);
  set_metadata(model.metadata, "onnxfold.source_xxh128", source_hash.empty() ? std::string(32, '0') : source_hash);
}

Result<Dataset> make_dataset(const Model& model, const std::string& data, std::uint64_t seed,
                             const DatasetOptions& options) {
  return data.empty() ? generate_dataset(model, seed) : load_dataset(model, data, options);
}

Result<Dataset> make_dataset(const Model& model, const std::string& data, std::uint64_t seed,
                             std::int64_t max_samples) {
  DatasetOptions options;
  options.max_samples = max_samples;
  return make_dataset(model, data, seed, options);
}

Result<Dataset> load_calibration(const Model& model, const std::string& path, const DatasetOptions& options) {
  auto data = load_dataset(model, path, options);
  if (!data) return fail(data.error().in("--calibration"));
  return data;
}

}  // namespace onnxfold
