#include "tests/support/equivalence.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace onnxfold::test {
namespace {

std::string compare_arrays(const Array& before, const Array& after, double tolerance) {
  if (before.dtype() != after.dtype())
    return fmt::format("type {} became {}", name(before.dtype()), name(after.dtype()));
  if (before.dims() != after.dims()) {
    return fmt::format("shape [{}] became [{}]", fmt::join(before.dims(), ","), fmt::join(after.dims(), ","));
  }
  const auto a = to_doubles(before);
  const auto b = to_doubles(after);
  if (!a || !b) return {};  // strings and complex numbers: shape and type only
  double largest = 0;
  for (const double value : *a) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  for (std::size_t i = 0; i < a->size(); ++i) {
    const double x = (*a)[i], y = (*b)[i];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    if (!(std::abs(x - y) <= tolerance * std::max(largest, 1e-30))) {
      return fmt::format("element {}: {:.17g} became {:.17g} (largest {:.3g})", i, x, y, largest);
    }
  }
  return {};
}

std::string compare_data(const Datum& before, const Datum& after, double tolerance) {
  if (before.kind != after.kind) return "kind of value changed";
  if (before.is_array()) return compare_arrays(before.array, after.array, tolerance);
  if (!before.items) return {};
  if (before.items->size() != after.items->size()) return "length of sequence changed";
  for (std::size_t i = 0; i < before.items->size(); ++i) {
    if (std::string text = compare_data((*before.items)[i], (*after.items)[i], tolerance); !text.empty()) return text;
  }
  return {};
}

Result<RunResult> run_model(const Model& model, const Feeds& feeds, Precision precision) {
  ExecutorOptions options;
  options.precision = precision;
  OF_ASSIGN(const std::unique_ptr<Executor> executor, Executor::create(model, options));
  return executor->run(feeds);
}

}  // namespace

Feeds random_feeds(const Model& model, std::uint64_t seed, int variant) {
  std::mt19937_64 random(seed + 1000 * static_cast<std::uint64_t>(variant));
  std::normal_distribution<double> normal;
  std::map<std::string, std::int64_t> symbols;
  Feeds feeds;
  for (const Value* input : model.graph().inputs()) {
    if (!input->type().is_tensor() || input->dtype() == DType::kString) continue;
    Dims dims;
    for (const Dim& dim : input->type().shape.value_or(std::vector<Dim>(2))) {
      const std::int64_t fresh = 2 + (static_cast<std::int64_t>(symbols.size()) + 2 * variant) % 4;
      if (dim.known()) {
        dims.push_back(*dim.value);
      } else {
        dims.push_back(dim.symbol.empty() ? 2 + variant : symbols.emplace(dim.symbol, fresh).first->second);
      }
    }
    std::vector<double> numbers(static_cast<std::size_t>(element_count(dims)));
    for (double& number : numbers) {
      number = is_float(input->dtype()) ? normal(random) : static_cast<double>(random() % 4);
      if (input->dtype() == DType::kBool) number = static_cast<int>(number) % 2;
    }
    const auto tensor = from_doubles(input->dtype(), dims, numbers);
    if (!tensor) continue;
    auto array = to_array(*tensor, Precision::kFloat64);
    if (array) feeds.emplace(input->name(), std::move(*array));
  }
  return feeds;
}

std::string difference(const Model& before, const Model& after, Precision precision, double tolerance,
                       std::uint64_t seed) {
  for (int variant = 0; variant < 2; ++variant) {
    Feeds feeds = random_feeds(before, seed, variant);
    for (auto& [name, datum] : feeds) {
      auto tensor = to_tensor(datum.array);
      if (!tensor) return tensor.error().message;
      auto array = to_array(*tensor, precision);
      if (!array) return array.error().message;
      datum = Datum(std::move(*array));
    }
    const Result<RunResult> a = run_model(before, feeds, precision);
    if (!a) return "model before does not run: " + a.error().message;
    const Result<RunResult> b = run_model(after, feeds, precision);
    if (!b) return "model after does not run: " + b.error().message;
    if (a->outputs.size() != b->outputs.size()) return "number of outputs changed";
    for (std::size_t i = 0; i < a->outputs.size(); ++i) {
      const std::string text = compare_data(a->outputs[i], b->outputs[i], tolerance);
      if (!text.empty()) return fmt::format("output '{}': {}", before.graph().outputs()[i]->name(), text);
    }
  }
  return {};
}

}  // namespace onnxfold::test
