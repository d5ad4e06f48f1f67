// Seeded inputs that respect what the inputs are.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>

#include "analysis/calibrate/dataset.h"
#include "analysis/calibrate/derived_inputs.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

// splitmix64 (Steele, Lea, Flood 2014): the same numbers on every platform.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1.0p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); }
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(limit));
  }

 private:
  std::uint64_t state_;
};

// Sizes for dynamic axes, one for each of the two variants. Many models hide a fixed size behind a dynamic axis (some a
// batch of one), so a list of usual ones is tried in turn.
struct SizePlan {
  std::array<std::int64_t, 2> height, width, length, batch = {2, 1};
};

constexpr SizePlan kPlans[] = {
    {{64, 96}, {64, 96}, {8, 13}},        {{64, 96}, {64, 96}, {8, 13}, {1, 1}}, {{64, 96}, {64, 96}, {8, 13}, {2, 2}},
    {{48, 48}, {320, 160}, {16, 16}},     {{32, 32}, {128, 96}, {32, 32}},       {{224, 224}, {224, 224}, {64, 64}},
    {{256, 256}, {256, 256}, {128, 128}}, {{320, 320}, {320, 320}, {77, 77}},    {{112, 112}, {112, 112}, {1, 1}},
    {{299, 299}, {299, 299}, {256, 256}}, {{640, 640}, {640, 640}, {512, 512}},
};

// Lengths of the example that a model was traced with, where the trace kept them.
constexpr std::int64_t kTraced[] = {10, 12, 20, 24, 50, 100, 5, 6, 7};

// For waveforms and what is made of them; a token model would take far too much memory.
constexpr SizePlan kLongPlans[] = {{{64, 96}, {64, 96}, {4000, 6000}, {1, 1}},
                                   {{64, 96}, {64, 96}, {16000, 24000}, {1, 1}}};

bool is_past(const Value& input) { return input.name().find("past") != std::string::npos; }

// Dynamic dimensions get a size per symbol; unnamed ones per (input, axis).
class Sizes {
 public:
  // `cached`: the model takes keys and values of earlier positions.
  Sizes(int variant, const SizePlan& plan, bool cached) : variant_(variant), plan_(plan), cached_(cached) {}

  std::int64_t of(const Value& input, std::size_t axis, const Dim& dim) {
    const std::string key = dim.symbol.empty() ? fmt::format("{}#{}", input.name(), axis) : dim.symbol;
    const auto found = chosen_.find(key);
    if (found != chosen_.end()) return found->second;
    return chosen_[key] = choose(input, axis, dim.symbol);
  }

  // Of a sequence; every other row of a batch is a quarter shorter.
  std::int64_t length_of_row(std::int64_t row) const {
    const std::int64_t full = plan_.length[static_cast<std::size_t>(variant_)];
    return row % 2 == 1 ? full - full / 4 : full;
  }

 private:
  // Recurrent states are [layers, batch, hidden]: both ends known, the middle free.
  static bool is_state_batch(const Value& input, std::size_t axis) {
    const auto& shape = *input.type().shape;
    const auto fixed = [](const Dim& dim) { return dim.known() && *dim.value > 0; };
    return axis == 1 && shape.size() == 3 && is_float(input.dtype()) && fixed(shape[0]) && fixed(shape[2]);
  }

  std::int64_t choose(const Value& input, std::size_t axis, const std::string& symbol) const {
    const bool past = symbol.find("past") != std::string::npos || is_past(input);
    // A mask covers the earlier positions and the new ones, whatever its axis is called.
    if (cached_ && axis > 0 && axis + 1 == input.type().shape->size() && role_of(input) == InputRole::kMask) {
      return past_length() + plan_.length[static_cast<std::size_t>(variant_)];
    }
    const bool image = input.rank().value_or(0) >= 4 && is_float(input.dtype());
    if (axis == 0 || is_state_batch(input, axis)) return plan_.batch[static_cast<std::size_t>(variant_)];
    if (past) return past_length();
    if (image && axis == 2) return plan_.height[static_cast<std::size_t>(variant_)];
    if (image && axis >= 3) return plan_.width[static_cast<std::size_t>(variant_)];
    return plan_.length[static_cast<std::size_t>(variant_)];
  }

  std::int64_t past_length() const { return variant_ == 0 ? 4 : 7; }

  int variant_;
  const SizePlan& plan_;
  bool cached_;
  std::map<std::string, std::int64_t> chosen_;
};

// The least extent of the axes that indices of a GatherND go along.
std::int64_t least_indexed(const Node& node) {
  const auto dims = node.input(0)->static_dims();
  const auto& indices = node.input(1)->type().shape;
  std::int64_t least = std::int64_t{1} << 40;
  if (!dims || !indices || indices->empty() || !indices->back().known()) return least;
  const auto first = static_cast<std::size_t>(std::max<std::int64_t>(0, node.attr_int("batch_dims", 0)));
  const std::size_t last = std::min(dims->size(), first + static_cast<std::size_t>(*indices->back().value));
  for (std::size_t axis = first; axis < last; ++axis) least = std::min(least, (*dims)[axis]);
  return least;
}

// The smallest table that values derived from `value` index, following what keeps numbers as they are.
void smallest_table(const Value& value, std::int64_t& limit, std::set<const Value*>& seen) {
  if (!seen.insert(&value).second) return;
  static const std::set<std::string_view> kKeeps = {"Cast",    "Reshape",   "Unsqueeze", "Squeeze", "Identity",
                                                    "Flatten", "Transpose", "Slice",     "Expand",  "Concat",
                                                    "Clip",    "Split",     "Tile"};
  for (const Use& use : value.uses()) {
    const Node* node = use.node;
    if (node == nullptr) continue;
    const bool gathers =
        node->is("Gather") || node->is("GatherElements") || node->is("GatherBlockQuantized", "com.microsoft");
    if (gathers && use.index == 1) {
      const Value* table = node->input(0);  // its type may be unknown where its decoder is newer than the inference
      const Node* decoder = table->producer();
      if (decoder != nullptr && decoder->is("DequantizeLinear")) table = decoder->input(0);
      const auto dims = table->static_dims();
      std::int64_t axis = node->attr_int(node->domain().empty() ? "axis" : "gather_axis", 0);
      if (!dims || dims->empty()) continue;
      if (axis < 0) axis += static_cast<std::int64_t>(dims->size());
      limit = std::min(limit, (*dims)[static_cast<std::size_t>(axis)]);
    } else if (node->is("EmbedLayerNormalization", "com.microsoft") && use.index < 2) {
      const Value* table = node->input(static_cast<std::size_t>(use.index) == 0 ? 2 : 4);
      if (const Tensor* tensor = constant(table)) limit = std::min(limit, tensor->dims()[0]);
    } else if (node->is("GatherND") && use.index == 1) {
      limit = std::min(limit, least_indexed(*node));
    } else if (node->is("OneHot") && use.index == 0) {
      if (const auto depth = scalar_constant(node->input(1)))
        limit = std::min(limit, static_cast<std::int64_t>(*depth));
    } else if (node->domain().empty() && kKeeps.contains(node->op_type())) {
      for (const Value* output : node->outputs()) {
        if (output != nullptr) smallest_table(*output, limit, seen);
      }
    }
  }
}

std::int64_t index_limit(const Value& input) {
  std::int64_t limit = 1000;
  std::set<const Value*> seen;
  std::int64_t found = std::int64_t{1} << 40;
  smallest_table(input, found, seen);
  return found < (std::int64_t{1} << 40) ? std::max<std::int64_t>(1, found) : limit;
}

// Ones, with the end of every row but the first masked out.
double mask_at(std::int64_t i, const Dims& dims) {
  const std::int64_t length = dims.empty() ? 1 : dims.back();
  const std::int64_t row = i / std::max<std::int64_t>(1, length);
  const std::int64_t masked = row % 2 == 1 ? length / 4 : 0;
  return i % length < length - masked || i % length == 0 ? 1 : 0;
}

Result<Datum> generate(const Value& input, Sizes& sizes, Random& random, int variant) {
  if (!input.type().is_tensor() || !input.type().shape) {
    return fail(Code::kInvalidArgument,
                fmt::format("input '{}' has no declared shape, so nothing can be made for it; give "
                            "--data",
                            input.name()));
  }
  Dims dims;
  std::int64_t count = 1;
  for (std::size_t axis = 0; axis < input.type().shape->size(); ++axis) {
    const Dim& dim = (*input.type().shape)[axis];
    dims.push_back(dim.known() && (*dim.value > 0 || !dim.symbol.empty()) ? *dim.value : sizes.of(input, axis, dim));
    if (__builtin_mul_overflow(count, dims.back(), &count) || count > (std::int64_t{1} << 31)) {
      return fail(Code::kInvalidArgument, fmt::format("input '{}' {} is too large to be made up; give --data",
                                                      input.name(), to_string(input.type())));
    }
  }
  if (input.dtype() == DType::kString) {
    return Datum(*to_array(Tensor::strings(dims, std::vector<std::string>(static_cast<std::size_t>(count), "word")),
                           Precision::kFloat32));
  }
  const InputRole role = role_of(input);
  const std::int64_t limit = is_integer(input.dtype()) ? index_limit(input) : 0;
  const bool past = is_past(input);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    double value = 0;
    if (role == InputRole::kMask) {
      value = mask_at(i, dims);
    } else if (role == InputRole::kPosition) {
      value = static_cast<double>((dims.empty() ? 0 : i % dims.back()) % std::max<std::int64_t>(1, limit));
    } else if (role == InputRole::kLength) {
      value = static_cast<double>(sizes.length_of_row(i));
    } else if (role == InputRole::kTokenType) {
      value = static_cast<double>(random.below(std::min<std::int64_t>(limit, 2)));
    } else if (input.dtype() == DType::kBool) {
      value = count == 1 ? 1 - variant : static_cast<double>(random.below(2));
    } else if (is_integer(input.dtype())) {
      value = static_cast<double>(random.below(std::min(limit, std::int64_t{1} << 20)));
    } else {
      value = random.normal() * (past ? 0.1 : 1.0);
    }
    values[static_cast<std::size_t>(i)] = value;
  }
  OF_ASSIGN(const Tensor tensor, from_doubles(input.dtype(), dims, values));
  OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat32));
  return Datum(std::move(array));
}

}  // namespace

namespace {

Result<Dataset> generate_with(const Model& model, std::uint64_t seed, const SizePlan& plan) {
  Dataset dataset;
  const auto& inputs = model.graph().inputs();
  const bool cached = std::any_of(inputs.begin(), inputs.end(), [](const Value* input) {
    return is_past(*input) && is_float(input->dtype()) && input->rank().value_or(0) >= 3;
  });
  for (int variant = 0; variant < 2; ++variant) {
    Random random(seed * 2 + static_cast<std::uint64_t>(variant) + 1);
    Sizes sizes(variant, plan, cached);
    Feeds feeds;
    std::int64_t samples = 1;
    for (const Value* input : model.graph().inputs()) {
      if (input->initializer() != nullptr) continue;
      OF_ASSIGN(feeds[input->name()], generate(*input, sizes, random, variant));
      const Array& made = feeds[input->name()].array;
      if (made.rank() > 0) samples = std::max<std::int64_t>(1, made.dim(0));
    }
    dataset.batches.push_back(std::move(feeds));
    dataset.batch_sizes.push_back(samples);
  }
  dataset.origin = fmt::format("generated inputs, seed {}", seed);
  return dataset;
}

// Results of no element (an image too small for all its kernels) tell nothing.
bool is_empty(const Datum& datum) { return datum.is_array() && datum.array.size() == 0; }

// Does every batch give something? Errors: those of the executor.
Result<bool> gives_something(const Executor& executor, const Dataset& dataset) {
  for (const Feeds& feeds : dataset.batches) {
    OF_ASSIGN(const RunResult result, executor.run(feeds));
    if (!result.outputs.empty() && std::all_of(result.outputs.begin(), result.outputs.end(), is_empty)) return false;
  }
  return true;
}

bool is_open(const Dim& dim) { return !dim.known() || *dim.value == 0; }

// Does some input look like a waveform or a sequence of features?
bool takes_signals(const Model& model) {
  const auto& inputs = model.graph().inputs();
  return std::any_of(inputs.begin(), inputs.end(), [](const Value* input) {
    const auto rank = input->rank().value_or(0);
    return is_float(input->dtype()) && (rank == 2 || rank == 3) && !is_past(*input) &&
           std::any_of(input->type().shape->begin() + 1, input->type().shape->end(), is_open);
  });
}

// Batch and length that an exporter wrote into the targets of Reshape although it declares both open: the pair that
// most of them begin with.
std::optional<SizePlan> hidden_sizes(const Model& model) {
  std::map<std::pair<std::int64_t, std::int64_t>, int> seen;
  for (const Node* node : model.graph().nodes_of("Reshape")) {
    const Tensor* target = constant(node->input(1));
    if (target == nullptr || target->size() < 3 || target->dtype() != DType::kInt64) continue;
    const auto entries = to_int64s(*target);
    if (entries && (*entries)[0] > 0 && (*entries)[1] > 0) ++seen[{(*entries)[0], (*entries)[1]}];
  }
  const auto most =
      std::max_element(seen.begin(), seen.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == seen.end()) return std::nullopt;
  const auto [batch, length] = most->first;
  return SizePlan{{64, 96}, {64, 96}, {length, length}, {batch, batch}};
}

bool is_dynamic(const Model& model) {
  for (const Value* input : model.graph().inputs()) {
    if (!input->type().shape) continue;
    for (const Dim& dim : *input->type().shape) {
      if (is_open(dim)) return true;
    }
  }
  return false;
}

}  // namespace

Result<Dataset> generate_dataset(const Model& model, std::uint64_t seed) {
  OF_ASSIGN(Dataset first, generate_with(model, seed, kPlans[0]));
  if (!is_dynamic(model)) return first;
  first.origin += ", two sizes";
  OF_ASSIGN(const auto executor, Executor::create(model));
  const Result<bool> ran = gives_something(*executor, first);
  if (ran && *ran) return first;
  std::vector<SizePlan> plans(std::begin(kPlans) + 1, std::end(kPlans));
  for (const std::int64_t length : kTraced) plans.push_back({{64, 64}, {64, 64}, {length, length}});
  if (const auto hidden = hidden_sizes(model)) plans.insert(plans.begin(), *hidden);
  if (takes_signals(model)) plans.insert(plans.end(), std::begin(kLongPlans), std::end(kLongPlans));
  for (const SizePlan& plan : plans) {
    OF_ASSIGN(Dataset other, generate_with(model, seed, plan));
    const Result<bool> runs = gives_something(*executor, other);
    if (!runs || !*runs) continue;
    other.origin += fmt::format(", batches of {}, images of {}x{}, lengths of {}", plan.batch[0], plan.height[0],
                                plan.width[0], plan.length[0]);
    return other;
  }
  if (ran) return first;
  return fail(Code::kInvalidArgument,
              fmt::format("the model runs on none of the input sizes that were made up; give --data ({})",
                          ran.error().message));
}

}  // namespace onnxfold
