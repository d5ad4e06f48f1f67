#include "passes/merge/method.h"

#include <array>

namespace onnxfold {
namespace {

constexpr std::array kSlerp = {
    OptionSpec{"t", OptionType::kFloat, "0.5", "place on the arc: 0 is the first model, 1 the second", "0..1"},
};
constexpr std::array kTaskArithmetic = {
    OptionSpec{"lambda", OptionType::kFloat, "1", "factor on the sum of task vectors"},
    OptionSpec{"normalize", OptionType::kBool, "false", "divide by the sum of the models' weights"},
};
constexpr std::array kTies = {
    OptionSpec{"density", OptionType::kFloat, "0.2", "share of every task vector that is kept, largest first", "0..1"},
    OptionSpec{"lambda", OptionType::kFloat, "1", "factor on the merged task vector"},
};
constexpr std::array kDare = {
    OptionSpec{"density", OptionType::kFloat, "0.5", "chance of an element to be kept", "0.001..1"},
    OptionSpec{"lambda", OptionType::kFloat, "1", "factor on the sum of task vectors"},
    OptionSpec{"normalize", OptionType::kBool, "false", "divide by the sum of the models' weights"},
};

const std::array kMethods = {
    MergeMethod{"average", "weighted mean of the weights", false, average, nullptr, {}},
    MergeMethod{"slerp", "spherical interpolation of two models", false, slerp, nullptr, kSlerp},
    MergeMethod{"task-arithmetic", "base plus weighted sum of task vectors", true, task_arithmetic, nullptr,
                kTaskArithmetic},
    MergeMethod{"ties", "trims task vectors, elects signs, merges what agrees", true, ties, nullptr, kTies},
    MergeMethod{"dare", "drops elements of task vectors at random and rescales the rest", true, dare, nullptr, kDare},
    MergeMethod{
        "model-stock", "goes from the base toward the mean as far as the models agree", true, model_stock, nullptr, {}},
};

}  // namespace

std::span<const MergeMethod> merge_methods() { return kMethods; }

const MergeMethod* find_merge_method(std::string_view name) {
  for (const MergeMethod& method : kMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

}  // namespace onnxfold
