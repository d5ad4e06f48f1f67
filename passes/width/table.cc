#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_low_rank(const PassOptions&);
std::unique_ptr<Pass> make_prune_heads(const PassOptions&);
std::unique_ptr<Pass> make_prune_neurons(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kLowRankOptions[] = {
    {"ratio", kFloat, "0.5", "Parameters of the weights to keep, as a share", "0..1"},
    {"target-params", kInt, "0", "Parameters of the whole model to aim at, instead of a ratio; 0: the ratio", "0.."},
    {"spread", kChoice, "error", "error: more rank where it takes away more error, measured on the model; uniform",
     "error|uniform"},
    {"refit", kBool, "true", "Solve the second factors anew on what the thinned model feeds them (with data)"},
    {"min-elements", kInt, "4096", "Smaller weights are left alone", "0.."},
    {"include", kPatterns, "", "Only weights whose name, or whose node's name, matches one of these globs (a;b)"},
    {"exclude", kPatterns, "", "No weights whose name, or whose node's name, matches one of these globs (a;b)"},
};

constexpr OptionSpec kPruneHeadsOptions[] = {
    {"ratio", kFloat, "0.25", "Heads of attentions to remove, as a share (with their key-value head where grouped)",
     "0..0.95"},
    {"target-params", kInt, "0", "Parameters of the whole model to aim at, instead of a ratio; 0: the ratio", "0.."},
    {"score", kChoice, "error",
     "error: what the output loses when the other heads make up for it (with data); magnitude: of the weights",
     "error|magnitude"},
    {"spread", kChoice, "error", "error: more from layers that lose less; uniform: the same share of each",
     "error|uniform"},
    {"refit", kBool, "true", "Solve the output Linears, then all that is behind them, anew (with data)"},
};

constexpr OptionSpec kPruneNeuronsOptions[] = {
    {"ratio", kFloat, "0.25", "Hidden neurons of feed-forward layers to remove, as a share", "0..0.95"},
    {"target-params", kInt, "0", "Parameters of the whole model to aim at, instead of a ratio; 0: the ratio", "0.."},
    {"multiple", kInt, "8", "Widths that are kept are multiples of this", "1.."},
    {"score", kChoice, "error",
     "error: what the layer's output loses when the others make up for it (with data); magnitude: of the weights",
     "error|magnitude"},
    {"spread", kChoice, "error", "error: more from layers that lose less; uniform: the same share of each",
     "error|uniform"},
    {"refit", kBool, "true", "Solve the down projections, then all that is behind them, anew (with data)"},
};

constexpr PassInfo kPasses[] = {
    {"low-rank", "width", kLossy, "Writes MatMul and Gemm weights as two thin factors (SVD, whitened by the inputs)",
     kLowRankOptions, make_low_rank},
    {"prune-heads", "width", kLossy, "Removes attention heads (grouped ones together) and solves the rest anew",
     kPruneHeadsOptions, make_prune_heads},
    {"prune-neurons", "width", kLossy, "Removes hidden neurons of feed-forward layers and solves the rest anew",
     kPruneNeuronsOptions, make_prune_neurons},
};

}  // namespace

std::span<const PassInfo> width_passes() { return kPasses; }

}  // namespace onnxfold
