// Model files as the jobs see them: read with what is to be reported of them, written whole or not at all.
#pragma once

#include <memory>
#include <string>

#include "analysis/calibrate/dataset.h"
#include "converter/report.h"
#include "formats/onnx/onnx_file.h"

namespace onnxfold {

struct LoadedModel {
  std::unique_ptr<Model> model;
  ModelFacts facts;
};
// Whether every byte of the files is read to hash them; weights themselves are read when somebody wants their numbers.
enum class Hashing { kYes, kNo };
// Without hashing facts.xxh128 stays empty. Errors: those of load_model.
Result<LoadedModel> load_with_facts(const std::string& path, Hashing hashing = Hashing::kYes);

// Refusing before the work is kinder than after it. Errors: io, invalid_argument (exists).
Status check_target(const std::string& target, bool may_exist);

// Saves and fills in sizes and hash of `facts`. Errors: those of save_model.
Status save_with_facts(const Model& model, const std::string& path, const SaveOptions& options, ModelFacts& facts);

// OUT.onnx -> OUT.failed.onnx
std::string failed_name(const std::string& target);

// What was done, in the model's metadata. No time stamps, no paths: the same input and recipe give the same bytes. For
// predictions an empty hash leaves as much room as one takes.
void stamp(Model& model, const std::string& recipe, const std::string& source_hash);

// The data of --data, or seeded inputs when `data` is empty. Errors: those of load_dataset.
Result<Dataset> make_dataset(const Model& model, const std::string& data, std::uint64_t seed,
                             const DatasetOptions& options);
// The same in batches of 32.
Result<Dataset> make_dataset(const Model& model, const std::string& data, std::uint64_t seed, std::int64_t max_samples);

// The data of --calibration. Errors: those of load_dataset, with the option in front.
Result<Dataset> load_calibration(const Model& model, const std::string& path, const DatasetOptions& options);

}  // namespace onnxfold
