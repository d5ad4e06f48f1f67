#include "analysis/calibrate/sample_split.h"

#include <algorithm>
#include <cstring>

#include "analysis/calibrate/refit.h"

namespace onnxfold {
namespace {

using Samples = std::vector<std::int64_t>;

template <typename T, typename Copy>
void copy_rows(const T* from, T* to, std::int64_t row, const Samples& chosen, Copy copy) {
  for (const std::int64_t sample : chosen) {
    copy(from + sample * row, row, to);
    to += row;
  }
}

Array chosen_of(const Array& array, const Samples& chosen) {
  const std::int64_t row = array.size() / array.dim(0);
  Dims dims = array.dims();
  dims[0] = static_cast<std::int64_t>(chosen.size());
  const bool wide = array.storage() == Storage::kDouble && array.dtype() != DType::kFloat64;
  Array part(array.dtype(), std::move(dims), wide ? Precision::kFloat64 : Precision::kFloat32);
  if (array.storage() == Storage::kString) {
    copy_rows(array.data<std::string>(), part.mutable_data<std::string>(), row, chosen,
              [](const std::string* from, std::int64_t count, std::string* to) { std::copy_n(from, count, to); });
    return part;
  }
  const auto bytes = static_cast<std::int64_t>(storage_bytes(array.storage()));
  copy_rows(
      static_cast<const char*>(array.raw()), static_cast<char*>(part.mutable_raw()), row * bytes, chosen,
      [](const char* from, std::int64_t count, char* to) { std::memcpy(to, from, static_cast<std::size_t>(count)); });
  return part;
}

bool by_sample(const Datum& datum, std::int64_t samples) {
  return datum.is_array() && datum.array.rank() > 0 && datum.array.dim(0) == samples && datum.array.size() > 0;
}

// Does the model say how many samples a batch has?
bool declared(const Model& model, const std::string& input) {
  const Value* value = model.graph().find(input);
  if (value == nullptr || !value->type().shape || value->type().shape->empty()) return false;
  const Dim& first = value->type().shape->front();
  return first.known() && *first.value > 0;
}

// Nullopt: the batch cannot be cut.
std::optional<Feeds> chosen_of(const Model& model, const Feeds& feeds, std::int64_t samples, const Samples& chosen) {
  if (static_cast<std::int64_t>(chosen.size()) == samples) return feeds;
  Feeds part;
  bool cut = false;
  for (const auto& [name, datum] : feeds) {
    const bool mine = by_sample(datum, samples);
    if (mine && declared(model, name)) return {};
    part[name] = mine ? Datum(chosen_of(datum.array, chosen)) : datum;
    cut = cut || mine;
  }
  if (!cut) return {};
  return part;
}

// Adds the chosen samples of a batch; false where that cannot be.
bool add_batch(const Model& model, const Dataset& data, std::size_t batch, const Samples& chosen, Dataset& part) {
  if (chosen.empty()) return true;
  auto feeds = chosen_of(model, data.batches[batch], data.batch_sizes[batch], chosen);
  if (!feeds) return false;
  part.batches.push_back(std::move(*feeds));
  part.batch_sizes.push_back(static_cast<std::int64_t>(chosen.size()));
  return true;
}

}  // namespace

Result<Tensor> target_of_samples(const Tensor& tensor, const std::vector<std::int64_t>& chosen) {
  if (tensor.rank() == 0 || tensor.dtype() == DType::kString || bit_width(tensor.dtype()) < 8 || chosen.empty() ||
      tensor.dims()[0] <= chosen.back()) {
    return tensor;
  }
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  const std::int64_t row = tensor.nbytes() / tensor.dims()[0];
  Buffer part(static_cast<std::size_t>(row) * chosen.size());
  copy_rows(bytes.span().data(), part.data(), row, chosen,
            [](const auto* from, std::int64_t count, auto* to) { std::copy_n(from, count, to); });
  Dims dims = tensor.dims();
  dims[0] = static_cast<std::int64_t>(chosen.size());
  return Tensor::owned(tensor.dtype(), std::move(dims), std::move(part));
}

Result<std::optional<SampleSplit>> split_samples(const Model& model, const Dataset& data) {
  std::int64_t all = 0;
  for (const std::int64_t size : data.batch_sizes) all += size;
  SampleSplit split;
  if (all < 8) return std::optional<SampleSplit>();
  Samples fit, check;  // of all the data
  for (std::size_t batch = 0; batch < data.batches.size(); ++batch) {
    const std::int64_t size = data.batch_sizes[batch];
    const auto first = static_cast<std::int64_t>(fit.size() + check.size());
    const std::vector<char> held = held_out_rows(size, size, first, all);
    Samples mine, others;  // of the batch
    for (std::int64_t i = 0; i < size; ++i) {
      const bool is_held = held[static_cast<std::size_t>(i)] != 0;
      (is_held ? others : mine).push_back(i);
      (is_held ? check : fit).push_back(first + i);
    }
    bool done = add_batch(model, data, batch, mine, split.fit);
    for (const std::int64_t sample : others) done = done && add_batch(model, data, batch, {sample}, split.check);
    if (!done) return std::optional<SampleSplit>();
  }
  if (split.fit.batches.empty() || split.check.batches.empty()) return std::optional<SampleSplit>();
  split.fit.origin = split.check.origin = data.origin;
  for (const auto& [name, tensor] : data.targets) {
    OF_ASSIGN(split.fit.targets[name], target_of_samples(tensor, fit));
    OF_ASSIGN(split.check.targets[name], target_of_samples(tensor, check));
  }
  return std::optional<SampleSplit>(std::move(split));
}

}  // namespace onnxfold
