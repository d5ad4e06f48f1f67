#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_tie_layers(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kTieLayersOptions[] = {
    {"loops", kInt, "2", "How often each unique layer is used; must divide the number of layers", "1.."},
    {"looping", kChoice, "cycle",
     "cycle: 0 1 2 0 1 2; sequence: 0 0 1 1 2 2; cycle-rev: 0 1 2 2 1 0 (which unique layer each layer uses)",
     "cycle|sequence|cycle-rev"},
    {"protect-first", kInt, "0", "Blocks at the start of each stream that stay as they are", "0.."},
    {"protect-last", kInt, "0", "Blocks at its end that stay as they are", "0.."},
};

constexpr PassInfo kPasses[] = {
    {"tie-layers", "tie", kLossy, "Makes layers share their weights (recursive transformers)", kTieLayersOptions,
     make_tie_layers},
};

}  // namespace

std::span<const PassInfo> tie_passes() { return kPasses; }

}  // namespace onnxfold
