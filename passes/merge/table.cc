#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_align(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kAlignOptions[] = {
    {"to", kString, "", "The model whose basis is taken: same architecture and widths"},
    {"rotate", kBool, "true", "Rotate the residual stream (fold-norm-affine first) and heads, not only permute"},
    {"sweeps", kInt, "30", "Most sweeps over the weights", "0..1000"},
};

constexpr PassInfo kPasses[] = {
    {"align", "merge", kRounding, "Writes the model in the basis of another one, so that their weights can be compared",
     kAlignOptions, make_align},
};

}  // namespace

std::span<const PassInfo> merge_passes() { return kPasses; }

}  // namespace onnxfold
