#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_fold_input_affine(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_branches(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_chain(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_concat(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kMergeConvOptions[] = {
    {"max-extra-work", kInt, "16", "Multiply-adds per output element that a merge may add for each addition it saves",
     "0.."},
};

constexpr PassInfo kPasses[] = {
    {"fold-input-affine",
     "reparam",
     kRounding,
     "Folds BatchNormalization and its like into the Conv, ConvTranspose or Gemm after it",
     {},
     make_fold_input_affine},
    {"merge-conv-branches", "reparam", kRounding,
     "Makes one Conv, ConvTranspose or Gemm of parallel branches that are added", kMergeConvOptions,
     make_merge_conv_branches},
    {"merge-conv-chain",
     "reparam",
     kRounding,
     "Makes one Conv of two in a row where that saves work",
     {},
     make_merge_conv_chain},
    {"merge-conv-concat", "reparam", kRounding,
     "Makes one Conv, ConvTranspose or Gemm of those whose results are concatenated", kMergeConvOptions,
     make_merge_conv_concat},
};

}  // namespace

std::span<const PassInfo> reparam_passes() { return kPasses; }

}  // namespace onnxfold
