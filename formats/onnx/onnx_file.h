// Reading and writing ONNX files: protobuf <-> IR, external data included. The only folder that sees protobuf.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "ir/model.h"

namespace onnxfold {

struct LoadStats {
  std::int64_t file_bytes = 0;                  // of the .onnx file
  std::int64_t external_bytes = 0;              // of all external files together
  std::int64_t dead_bytes = 0;                  // bytes of external files no tensor refers to (alignment gaps excluded)
  std::vector<std::string> external_files;      // real paths
  std::vector<std::string> external_locations;  // as tensors name them: relative to the folder, normalized, sorted
};

// Loads a model. Large tensors stay on disk: external data is mapped, inline data shares the parsed proto's memory.
// Errors: io (cannot read), corrupt (truncated, not ONNX, bad references, external location that leaves the folder,
// offset or length outside the file), unsupported (a construct we would have to drop, named).
Result<std::unique_ptr<Model>> load_model(const std::string& path, LoadStats* stats = nullptr);
// From serialized bytes (no external data).
Result<std::unique_ptr<Model>> parse_model(std::span<const std::byte> bytes);
// From ONNX text (onnx/defs/parser.h), for tests and tools only. int4 literals are repacked.
Result<std::unique_ptr<Model>> parse_model_text(const std::string& text);
// Readable ONNX text of the model.
Result<std::string> to_model_text(const Model& model);
// One TensorProto in a .pb file (ONNX test data). Errors as load_model.
Result<Tensor> load_tensor_pb(const std::string& path, std::string* name = nullptr);

using ValueNames = std::unordered_set<std::string>;
// Values of all graphs and function bodies that have a type. Taken right after loading: those the file describes.
ValueNames described_values(const Model& model);

enum class DataPlacement {
  kAuto,      // inline when the file stays under 2 GB, else external
  kInline,    // error invalid_argument when that is impossible
  kExternal,  // one compact file next to the model
};

struct SaveOptions {
  DataPlacement placement = DataPlacement::kAuto;
  std::string external_name;               // default: <model file name>.data
  std::int64_t inline_below = 1024;        // bytes; smaller tensors stay inline
  std::int64_t align = 4096;               // offset alignment of tensors of at least this size
  std::int64_t memory_budget = 768 << 20;  // making_bytes() of the tensors being made at one time
  bool memory_limited = false;             // a tensor that needs more is an error (resource); else it is made alone
  int threads = 1;
  // Inner values whose types are written as value_info; none given: all with a type. Types that shape inference found
  // are found again by every reader, so a pipeline passes what the input file described.
  std::optional<ValueNames> described;
  bool overwrite = false;  // false: invalid_argument when the target exists
  std::function<void(std::int64_t done, std::int64_t total)> progress;  // bytes
};

struct SaveStats {
  std::int64_t file_bytes = 0, external_bytes = 0;
};

// Writes atomically: temporary names beside the target, flush, rename; on any error nothing is left behind and an
// existing target is untouched. Deferred tensors are made, written and dropped within the memory budget. IR version and
// opset imports are the lowest that the content needs and not below what the model declares.
Result<SaveStats> save_model(const Model& model, const std::string& path, const SaveOptions& options = {});
// What save_model would write to `path`, to the byte, without making or writing any large tensor. Errors: those of
// save_model, but for io.
Result<SaveStats> predict_save(const Model& model, const std::string& path, const SaveOptions& options = {});
Result<Buffer> serialize_model(const Model& model);

// Estimate of what is held while a deferred tensor is made: three times its bytes (codes of a weight, a byte each, lie
// beside the packed ones). 0 for others, which are written from where they are.
std::int64_t making_bytes(const Tensor& tensor);
// Error: resource when `options` limit the memory and a tensor of the model needs more while it is made. save_model
// asks this first.
Status check_memory(const Model& model, const SaveOptions& options);

}  // namespace onnxfold
