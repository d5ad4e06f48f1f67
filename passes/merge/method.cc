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

// Of the repair, for every method that has one.
constexpr OptionSpec kDamping{"damping", OptionType::kFloat, "0.001",
                              "of the repair, toward the averaged weights; 0: by holding out half", "0..1"};
constexpr OptionSpec kTarget{"target", OptionType::kChoice, "stream", "what the last Linear of a branch is fitted to",
                             "stream|output"};
constexpr OptionSpec kRounds{"rounds", OptionType::kInt, "1", "walks of the repair over the network", "1..20"};
constexpr OptionSpec kTogether{
    "together", OptionType::kChoice, "auto",
    "of ridge: fits the ends of two branches in a row to the stream behind both; auto: where "
    "that does better on the half of the data that was held out",
    "auto|yes|no"};
constexpr OptionSpec kFocus{"focus", OptionType::kFloat, "0",
                            "of ridge: how much rows of the position weigh that the outputs read (class token); 0: 1 "
                            "or 5, by what does better on the half of the data that was held out",
                            "0..1000"};
constexpr OptionSpec kAugment{"augment", OptionType::kChoice, "auto",
                              "more data to repair with: move makes nine of every image, moved by a pixel; auto: what "
                              "does better on the half of the data that was held out, with fewer of each beyond 512",
                              "auto|none|move"};

constexpr std::array kAlign = {
    OptionSpec{"repair", OptionType::kChoice, "ridge", "closed-form repair of the average, with data",
               "ridge|regmean|stats|none"},
    kDamping,
    kTarget,
    kRounds,
    kAugment,
    kFocus,
    kTogether,
    OptionSpec{"sweeps", OptionType::kInt, "30", "most sweeps of alignment over the weights", "0..1000"},
    OptionSpec{"tuned", OptionType::kChoice, "stay",
               "models tuned from one base (their weights are nearly equal): stay in their order, or are aligned too",
               "stay|align"},
};

constexpr std::array kOt = {
    OptionSpec{"features", OptionType::kChoice, "auto", "what neurons are compared by; auto: activations with data",
               "auto|activations|weights"},
    OptionSpec{"solver", OptionType::kChoice, "sinkhorn", "soft maps, or exact ones (a permutation for equal widths)",
               "sinkhorn|exact"},
    OptionSpec{"lambda", OptionType::kFloat, "0", "of Sinkhorn; 0: 0.08 for activations, 0.06 for weights", "0..1000"},
    OptionSpec{"policy", OptionType::kChoice, "auto",
               "maps where a branch joins the stream; auto: the better of mean and no-resid, by KL to the ensemble",
               "auto|mean|weighted-scalar|weighted-matrix|no-resid|only-resid|identity"},
    OptionSpec{"scores", OptionType::kChoice, "separate", "maps of queries and keys", "separate|common|joint"},
    OptionSpec{
        "positions", OptionType::kChoice, "reaching",
        "positions whose activations count: all, or none that cannot reach the outputs (behind the last attention)",
        "reaching|all"},
    OptionSpec{"heads", OptionType::kChoice, "cross", "may weight move between heads?", "cross|apart"},
    OptionSpec{"repair", OptionType::kChoice, "none", "closed-form repair of the average, with data",
               "ridge|regmean|stats|none"},
    kDamping,
    kTarget,
    kRounds,
    kAugment,
    kFocus,
    kTogether,
};

const std::array kMethods = {
    MergeMethod{"align", "brings every model into the anchor's basis without changing it, averages, repairs", false,
                true, nullptr, align, kAlign},
    MergeMethod{"permute", "the same with permutations only (Git Re-Basin)", false, false, nullptr, permute, kAlign},
    MergeMethod{"ot", "carries every model over by optimal transport, also between widths, and averages", false, false,
                nullptr, ot, kOt},
    MergeMethod{"average", "weighted mean of the weights", false, false, average, nullptr, {}},
    MergeMethod{"slerp", "spherical interpolation of two models", false, false, slerp, nullptr, kSlerp, slerp_facts,
                false},
    MergeMethod{"task-arithmetic", "base plus weighted sum of task vectors", true, false, task_arithmetic, nullptr,
                kTaskArithmetic},
    MergeMethod{"ties", "trims task vectors, elects signs, merges what agrees", true, false, ties, nullptr, kTies,
                ties_facts},
    MergeMethod{"dare", "drops elements of task vectors at random and rescales the rest", true, false, dare, nullptr,
                kDare},
    MergeMethod{"model-stock",
                "goes from the base toward the mean as far as the models agree",
                true,
                false,
                model_stock,
                nullptr,
                {},
                model_stock_facts,
                false},
};

}  // namespace

std::span<const MergeMethod> merge_methods() { return kMethods; }

const MergeMethod* find_merge_method(std::string_view name) {
  for (const MergeMethod& method : kMethods) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

const MergeMethod* find_merge_method(MergeFunction combine) {
  for (const MergeMethod& method : kMethods) {
    if (method.combine != nullptr && method.combine == combine) return &method;
  }
  return nullptr;
}

}  // namespace onnxfold
