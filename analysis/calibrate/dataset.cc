// Data files -> batches of feeds.
#include "analysis/calibrate/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "analysis/calibrate/derived_inputs.h"
#include "analysis/calibrate/labels.h"
#include "formats/npz/npz.h"
#include "formats/onnx/onnx_file.h"

namespace onnxfold {
namespace {

namespace fs = std::filesystem;
using Arrays = std::map<std::string, Tensor>;

std::string described(const Tensor& tensor) { return to_string(Type::tensor(tensor.dtype(), tensor.dims())); }

std::string listing(const Arrays& arrays) {
  std::string text;
  for (const auto& [name, tensor] : arrays)
    text += fmt::format("{}'{}' {}", text.empty() ? "" : ", ", name, described(tensor));
  return text.empty() ? "nothing" : text;
}

// Inputs a caller must give: those without a default.
std::vector<Value*> fed_inputs(const Model& model) {
  std::vector<Value*> inputs;
  for (Value* input : model.graph().inputs()) {
    if (input->initializer() == nullptr) inputs.push_back(input);
  }
  return inputs;
}

bool lossless(DType from, DType to) {
  if (from == to) return true;
  if (is_integer(from) && to == DType::kInt64) return from != DType::kUint64;
  if (is_integer(from) && to == DType::kInt32)
    return bit_width(from) < 32 || from == DType::kInt32 || from == DType::kInt64;
  if (from == DType::kBool) return is_integer(to) || is_float(to);
  if (is_integer(from) && to == DType::kBool) return true;
  if (is_float(from) &&
      (to == DType::kFloat32 || to == DType::kFloat64 || to == DType::kFloat16 || to == DType::kBFloat16))
    return true;
  return is_integer(from) && bit_width(from) <= 16 && (to == DType::kFloat32 || to == DType::kFloat64);
}

// Does a sample-first or whole array of these dims fit the declared shape? `first_free`: the first axis may be any
// length.
bool fits(const Dims& dims, const Type& type, bool first_free) {
  if (!type.shape) return true;
  if (dims.size() != type.shape->size()) return false;
  for (std::size_t i = first_free ? 1 : 0; i < dims.size(); ++i) {
    const Dim& declared = (*type.shape)[i];
    if (declared.known() && *declared.value > 0 && *declared.value != dims[i]) return false;
  }
  return true;
}

Result<Tensor> converted(const Tensor& tensor, const Value& input) {
  const DType wanted = input.dtype();
  if (wanted == DType::kUndefined || tensor.dtype() == wanted) return tensor;
  if (!lossless(tensor.dtype(), wanted)) {
    return fail(Code::kInvalidArgument, fmt::format("input '{}' needs {}, the data has {}", input.name(),
                                                    to_string(input.type()), described(tensor)));
  }
  OF_ASSIGN(const std::vector<double> values, to_doubles(tensor));
  return from_doubles(wanted, tensor.dims(), values);
}

// Samples [begin, end) of the first axis. REQUIRES: not a sub-byte type.
Result<Tensor> slice(const Tensor& tensor, std::int64_t begin, std::int64_t end) {
  Dims dims = tensor.dims();
  const std::int64_t row = tensor.size() / std::max<std::int64_t>(1, dims[0]);
  dims[0] = end - begin;
  if (tensor.dtype() == DType::kString) {
    const auto& all = tensor.string_data();
    return Tensor::strings(dims, {all.begin() + begin * row, all.begin() + end * row});
  }
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  const std::int64_t width = bit_width(tensor.dtype()) / 8 * row;
  const auto part =
      bytes.span().subspan(static_cast<std::size_t>(begin * width), static_cast<std::size_t>((end - begin) * width));
  return Tensor::owned(tensor.dtype(), std::move(dims), Buffer(part.begin(), part.end()));
}

// Which array feeds which input; arrays left over are targets.
Result<std::map<std::string, Tensor>> match_inputs(const Model& model, Arrays& arrays, const std::string& path,
                                                   std::vector<const Value*>& missing) {
  std::map<std::string, Tensor> matched;
  for (const Value* input : fed_inputs(model)) {
    const auto found = arrays.find(input->name());
    if (found == arrays.end()) {
      missing.push_back(input);
      continue;
    }
    matched[input->name()] = found->second;
    arrays.erase(found);
  }
  // One input and one array that fits are left: they belong together whatever they are called.
  if (missing.size() == 1 && !can_derive(*missing[0])) {
    std::vector<std::string> fitting;
    for (const auto& [name, tensor] : arrays) {
      if (fits(tensor.dims(), missing[0]->type(), true) && lossless(tensor.dtype(), missing[0]->dtype()))
        fitting.push_back(name);
    }
    if (fitting.size() == 1) {
      matched[missing[0]->name()] = arrays.at(fitting[0]);
      arrays.erase(fitting[0]);
      missing.clear();
    }
  }
  for (const Value* input : missing) {
    if (can_derive(*input) && !matched.empty()) continue;
    return fail(Code::kInvalidArgument, fmt::format("{}: no array for input '{}' {}; the file holds {}", path,
                                                    input->name(), to_string(input->type()), listing(arrays)));
  }
  return matched;
}

// Arrays whose first axes disagree but which the model takes as they are (a recurrent state [layers, batch, hidden]
// beside its samples) make one batch.
bool one_whole_batch(const Model& model, const std::map<std::string, Tensor>& matched) {
  std::set<std::int64_t> counts;
  for (const auto& [name, tensor] : matched) {
    if (!fits(tensor.dims(), model.graph().find(name)->type(), false)) return false;
    if (tensor.rank() > 0) counts.insert(tensor.dims()[0]);
  }
  return counts.size() > 1;
}

// The number of samples that all matched arrays agree on, or none when an array is one whole sample.
Result<std::int64_t> sample_count(const Model& model, const std::map<std::string, Tensor>& matched,
                                  const std::string& path) {
  std::int64_t count = -1;
  for (const auto& [name, tensor] : matched) {
    const Value& input = *model.graph().find(name);
    if (!fits(tensor.dims(), input.type(), true) || tensor.rank() == 0) {
      if (fits(tensor.dims(), input.type(), false)) continue;
      return fail(Code::kInvalidArgument, fmt::format("{}: input '{}' needs {}, the data has {}", path, name,
                                                      to_string(input.type()), described(tensor)));
    }
    if (count >= 0 && count != tensor.dims()[0]) {
      return fail(Code::kInvalidArgument, fmt::format("{}: '{}' has {} samples where other arrays have {}", path, name,
                                                      tensor.dims()[0], count));
    }
    count = tensor.dims()[0];
  }
  return std::max<std::int64_t>(count, 0);
}

// The batch that the model declares on its first axes; 0 when that is free.
std::int64_t declared_batch(const Model& model, const std::map<std::string, Tensor>& matched) {
  for (const auto& [name, tensor] : matched) {
    const auto& shape = model.graph().find(name)->type().shape;
    if (shape && !shape->empty() && shape->front().known() && *shape->front().value > 0) return *shape->front().value;
  }
  return 0;
}

Result<Dataset> whole_batch(const std::map<std::string, Tensor>& matched, const std::vector<const Value*>& missing,
                            const std::string& path) {
  Dataset dataset;
  Feeds feeds;
  for (const auto& [name, tensor] : matched) {
    OF_ASSIGN(feeds[name], to_array(tensor, Precision::kFloat32));
  }
  for (const Value* input : missing) {
    OF_ASSIGN(feeds[input->name()], derive_input(*input, feeds, 0));
  }
  dataset.batches.push_back(std::move(feeds));
  dataset.batch_sizes.push_back(1);
  dataset.origin = fmt::format("{}, one batch as it is", fs::path(path).filename().string());
  for (const Value* input : missing) dataset.origin += fmt::format(", '{}' derived", input->name());
  return dataset;
}

Result<Dataset> make_batches(const Model& model, std::map<std::string, Tensor> matched,
                             const std::vector<const Value*>& missing, const std::string& path,
                             const DatasetOptions& options) {
  for (auto& [name, tensor] : matched) {
    auto fitting = converted(tensor, *model.graph().find(name));
    if (!fitting) return fail(fitting.error().in(path));
    tensor = std::move(*fitting);
  }
  if (one_whole_batch(model, matched)) return whole_batch(matched, missing, path);
  OF_ASSIGN(std::int64_t samples, sample_count(model, matched, path));
  if (samples == 0) return fail(Code::kInvalidArgument, fmt::format("{}: holds no samples", path));
  if (options.max_samples > 0) samples = std::min(samples, options.max_samples);
  const std::int64_t declared = declared_batch(model, matched);
  const std::int64_t batch = declared > 0 ? declared : options.batch_size;
  Dataset dataset;
  for (std::int64_t begin = 0; begin < samples; begin += batch) {
    const std::int64_t end = std::min(samples, begin + batch);
    if (declared > 0 && end - begin < declared) break;  // a static model cannot take the ragged rest
    Feeds feeds;
    for (const auto& [name, tensor] : matched) {
      const bool sliced = tensor.rank() > 0 && fits(tensor.dims(), model.graph().find(name)->type(), true);
      OF_ASSIGN(const Tensor part, sliced ? slice(tensor, begin, end) : Result<Tensor>(tensor));
      OF_ASSIGN(feeds[name], to_array(part, Precision::kFloat32));
    }
    for (const Value* input : missing) {
      OF_ASSIGN(feeds[input->name()], derive_input(*input, feeds, dataset.batches.size()));
    }
    dataset.batches.push_back(std::move(feeds));
    dataset.batch_sizes.push_back(end - begin);
  }
  if (dataset.batches.empty()) {
    return fail(Code::kInvalidArgument,
                fmt::format("{}: {} samples do not fill one batch of {}", path, samples, declared));
  }
  std::int64_t used = 0;
  for (const std::int64_t size : dataset.batch_sizes) used += size;
  dataset.origin = fmt::format("{}, {} samples", fs::path(path).filename().string(), used);
  for (const Value* input : missing) dataset.origin += fmt::format(", '{}' derived", input->name());
  return dataset;
}

// What is named like labels is meant to be one a sample.
Status check_labels(const Arrays& targets, const std::map<std::string, Tensor>& matched, const Model& model,
                    const std::string& path) {
  if (one_whole_batch(model, matched)) return {};
  OF_ASSIGN(const std::int64_t samples, sample_count(model, matched, path));
  for (const auto& [name, tensor] : targets) {
    if (!named_like_labels(name)) continue;
    const std::int64_t count = tensor.rank() > 0 ? tensor.dims()[0] : 1;
    if (count == samples || samples == 0) continue;
    return fail(Code::kInvalidArgument,
                fmt::format("{}: '{}' has {} entries for {} samples: give one a sample", path, name, count, samples));
  }
  return {};
}

Result<Dataset> load_npz_dataset(const Model& model, const std::string& path, const DatasetOptions& options) {
  OF_ASSIGN(Arrays arrays, load_npz(path));
  std::vector<const Value*> missing;
  OF_ASSIGN(auto matched, match_inputs(model, arrays, path, missing));
  OF_TRY(check_labels(arrays, matched, model, path));
  OF_ASSIGN(Dataset dataset, make_batches(model, std::move(matched), missing, path, options));
  dataset.targets = std::move(arrays);
  return dataset;
}

// input_0.pb ... of one folder as one batch.
Result<Feeds> load_pb_folder(const Model& model, const fs::path& folder) {
  const std::vector<Value*> inputs = fed_inputs(model);
  Feeds feeds;
  for (std::size_t i = 0;; ++i) {
    const fs::path file = folder / fmt::format("input_{}.pb", i);
    if (!fs::exists(file)) break;
    std::string name;
    OF_ASSIGN(const Tensor tensor, load_tensor_pb(file.string(), &name));
    const bool named =
        std::any_of(inputs.begin(), inputs.end(), [&](const Value* input) { return input->name() == name; });
    if (!named && i < inputs.size()) name = inputs[i]->name();
    if (!named && i >= inputs.size()) {
      return fail(Code::kInvalidArgument,
                  fmt::format("{}: the model has only {} inputs", file.string(), inputs.size()));
    }
    const Value& input = *model.graph().find(name);
    OF_ASSIGN(const Tensor fitting, converted(tensor, input));
    if (!fits(fitting.dims(), input.type(), false)) {
      return fail(Code::kInvalidArgument, fmt::format("{}: input '{}' needs {}, the data has {}", file.string(), name,
                                                      to_string(input.type()), described(tensor)));
    }
    OF_ASSIGN(feeds[name], to_array(fitting, Precision::kFloat32));
  }
  for (const Value* input : inputs) {
    if (!feeds.contains(input->name())) {
      return fail(Code::kInvalidArgument, fmt::format("{}: no input_*.pb for input '{}' {}", folder.string(),
                                                      input->name(), to_string(input->type())));
    }
  }
  return feeds;
}

Result<Dataset> load_pb_dataset(const Model& model, const std::string& path) {
  std::set<fs::path> folders;
  if (fs::exists(fs::path(path) / "input_0.pb")) folders.insert(path);
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.is_directory() && fs::exists(entry.path() / "input_0.pb")) folders.insert(entry.path());
  }
  if (folders.empty()) return fail(Code::kInvalidArgument, fmt::format("{}: holds no input_0.pb", path));
  Dataset dataset;
  for (const fs::path& folder : folders) {
    OF_ASSIGN(Feeds feeds, load_pb_folder(model, folder));
    dataset.batches.push_back(std::move(feeds));
    dataset.batch_sizes.push_back(1);
  }
  dataset.origin = fmt::format("{}, {} test data sets", fs::path(path).filename().string(), folders.size());
  return dataset;
}

}  // namespace

Result<Dataset> load_dataset(const Model& model, const std::string& path, const DatasetOptions& options) {
  std::error_code error;
  if (fs::is_directory(path, error)) return load_pb_dataset(model, path);
  if (!fs::exists(path, error)) return fail(Code::kIo, fmt::format("{}: no such file", path));
  return load_npz_dataset(model, path, options);
}

}  // namespace onnxfold
