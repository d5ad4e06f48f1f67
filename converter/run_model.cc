#include "converter/run_model.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

using Parts = std::map<std::string, std::vector<Tensor>>;

Status keep(Parts& parts, const std::string& name, const Datum& datum, Precision precision) {
  if (!datum.is_array()) return fail(Code::kUnsupported, fmt::format("output '{}' is not a tensor", name));
  // In float64 mode the doubles themselves are the result.
  const bool doubles = precision == Precision::kFloat64 && datum.array.storage() == Storage::kDouble;
  OF_ASSIGN(Tensor tensor, to_tensor(doubles ? datum.array.retyped(DType::kFloat64) : datum.array));
  parts[name].push_back(std::move(tensor));
  return {};
}

bool joinable(const std::vector<Tensor>& parts) {
  const Tensor& first = parts.front();
  if (first.rank() == 0 || is_sub_byte(first.dtype())) return false;
  return std::all_of(parts.begin(), parts.end(), [&](const Tensor& part) {
    return part.dtype() == first.dtype() && part.rank() == first.rank() &&
           std::equal(part.dims().begin() + 1, part.dims().end(), first.dims().begin() + 1);
  });
}

Result<Tensor> join(const std::vector<Tensor>& parts) {
  Dims dims = parts.front().dims();
  dims[0] = 0;
  for (const Tensor& part : parts) dims[0] += part.dims()[0];
  if (parts.front().dtype() == DType::kString) {
    std::vector<std::string> strings;
    for (const Tensor& part : parts) {
      strings.insert(strings.end(), part.string_data().begin(), part.string_data().end());
    }
    return Tensor::strings(std::move(dims), std::move(strings));
  }
  Buffer buffer;
  for (const Tensor& part : parts) {
    OF_ASSIGN(const Bytes bytes, part.bytes());
    buffer.insert(buffer.end(), bytes.span().begin(), bytes.span().end());
  }
  return Tensor::owned(parts.front().dtype(), std::move(dims), std::move(buffer));
}

Result<std::map<std::string, Tensor>> joined(const Parts& parts) {
  std::map<std::string, Tensor> arrays;
  for (const auto& [name, list] : parts) {
    if (joinable(list)) {
      OF_ASSIGN(arrays[name], join(list));
      continue;
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
      arrays[list.size() == 1 ? name : fmt::format("{}.{}", name, i)] = list[i];
    }
  }
  return arrays;
}

// `run` makes the results of one batch.
Result<std::map<std::string, Tensor>> run_batches(const Model& model, const Dataset& data, Precision precision,
                                                  const std::function<void(double done)>& progress,
                                                  const std::function<Result<RunResult>(const Feeds&)>& run) {
  Parts parts;
  for (std::size_t batch = 0; batch < data.batches.size(); ++batch) {
    if (progress) progress(static_cast<double>(batch) / static_cast<double>(data.batches.size()));
    OF_ASSIGN(const RunResult result, run(data.batches[batch]));
    for (std::size_t i = 0; i < result.outputs.size(); ++i) {
      OF_TRY(keep(parts, model.graph().outputs()[i]->name(), result.outputs[i], precision));
    }
    for (const auto& [name, datum] : result.taps) OF_TRY(keep(parts, name, datum, precision));
  }
  return joined(parts);
}

}  // namespace

Result<std::map<std::string, Tensor>> run_model(const Model& model, const Dataset& data, const ExecutorOptions& options,
                                                const std::function<void(double done)>& progress) {
  OF_ASSIGN(const std::unique_ptr<Executor> executor, Executor::create(model, options));
  return run_batches(model, data, options.precision, progress,
                     [&](const Feeds& feeds) { return executor->run(feeds); });
}

Result<std::map<std::string, Tensor>> run_model_on_integers(const Model& model, const Dataset& data,
                                                            const std::vector<std::string>& taps, IntegerCounts& counts,
                                                            const std::function<void(double done)>& progress) {
  OF_ASSIGN(const std::unique_ptr<IntegerExecutor> executor, IntegerExecutor::create(model, taps));
  return run_batches(model, data, Precision::kFloat32, progress,
                     [&](const Feeds& feeds) { return executor->run(feeds, &counts); });
}

}  // namespace onnxfold
