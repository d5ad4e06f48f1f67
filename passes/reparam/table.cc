#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_fold_attention_scale(const PassOptions&);
std::unique_ptr<Pass> make_fold_idle_channels(const PassOptions&);
std::unique_ptr<Pass> make_expand_activation(const PassOptions&);
std::unique_ptr<Pass> make_expand_attention(const PassOptions&);
std::unique_ptr<Pass> make_expand_linear(const PassOptions&);
std::unique_ptr<Pass> make_expand_norm(const PassOptions&);
std::unique_ptr<Pass> make_fold_channel_border(const PassOptions&);
std::unique_ptr<Pass> make_fold_input_affine(const PassOptions&);
std::unique_ptr<Pass> make_fold_lora(const PassOptions&);
std::unique_ptr<Pass> make_fold_norm_affine(const PassOptions&);
std::unique_ptr<Pass> make_fold_output_affine(const PassOptions&);
std::unique_ptr<Pass> make_fold_value_bias(const PassOptions&);
std::unique_ptr<Pass> make_fuse_activation(const PassOptions&);
std::unique_ptr<Pass> make_fuse_attention(const PassOptions&);
std::unique_ptr<Pass> make_fuse_norm(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_branches(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_chain(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_concat(const PassOptions&);
std::unique_ptr<Pass> make_merge_linear_chain(const PassOptions&);
std::unique_ptr<Pass> make_merge_linear_sum(const PassOptions&);
std::unique_ptr<Pass> make_merge_parallel_linears(const PassOptions&);
std::unique_ptr<Pass> make_parallelize(const PassOptions&);
std::unique_ptr<Pass> make_remove_key_bias(const PassOptions&);
std::unique_ptr<Pass> make_merge_parallel_attention(const PassOptions&);
std::unique_ptr<Pass> make_merge_parallel_ffn(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kFoldNormAffineOptions[] = {
    {"max-extra-nodes", kInt, "0", "Nodes that biases for readers without one may add, for each norm", "0.."},
    {"max-growth", kInt, "65536", "Bytes that copies of shared weights may add, for each norm", "0.."},
    {"chains", kBool, "false",
     "Also norms that are no single operator (ONNX Runtime fuses those only with their gain)"},
};

constexpr OptionSpec kMergeLinearOptions[] = {
    {"max-growth", kInt, "65536", "Bytes that copies of shared weights may add, for each merge", "0.."},
};

constexpr OptionSpec kMergeParallelLinearsOptions[] = {
    {"max-growth", kInt, "65536", "Bytes that copies of shared weights may add, for each merge", "0.."},
    {"max-rows", kInt, "0", "Only where the input has at most that many rows per element of the batch; 0: anywhere",
     "0.."},
};

constexpr OptionSpec kMergeConvOptions[] = {
    {"max-extra-work", kInt, "16", "Multiply-adds per output element that a merge may add for each addition it saves",
     "0.."},
};

constexpr OptionSpec kParallelizeOptions[] = {
    {"pairs", kInt, "0", "Pairs of blocks to make parallel; 0: as many as max-error allows", "0.."},
    {"max-error", kFloat, "0.1", "Largest relative L2 error of the outputs with all pairs, where pairs is 0", "0.."},
    {"which", kPatterns, "", "These pairs, by the index of the first block as inspect prints it (0;4;6)"},
    {"mode", kChoice, "staged",
     "staged: attention beside attention, then feed-forward beside feed-forward; full: all beside each other",
     "staged|full"},
    {"samples", kInt, "256", "Samples of the calibration data to measure with (0: all)", "0.."},
    {"rescore", kBool, "true", "Measure what is left anew after each choice; false: rank by each pair alone"},
};

constexpr OptionSpec kFuseNormOptions[] = {
    {"group-norm", kBool, "true", "Also GroupNorm (ONNX Runtime 1.32 runs that operator slower than the chain)"},
};

constexpr OptionSpec kExpandOptions[] = {
    {"only-contrib", kBool, "false",
     "Only ONNX Runtime's own operators; the standard one takes their place where the model's opset has it"},
};

constexpr OptionSpec kExpandNormOptions[] = {
    {"only-contrib", kBool, "false",
     "Only ONNX Runtime's own operators; the standard one takes their place where the model's opset has it"},
    {"only-embeddings", kBool, "false", "Of ONNX Runtime's own operators only EmbedLayerNormalization"},
};

constexpr OptionSpec kExpandAttentionOptions[] = {
    {"only-contrib", kBool, "false", "Only ONNX Runtime's MultiHeadAttention, not the standard Attention"},
};

constexpr PassInfo kPasses[] = {
    {"fold-attention-scale",
     "reparam",
     kRounding,
     "Folds constant factors of queries, keys and scores into the Linears of queries and keys",
     {},
     make_fold_attention_scale},
    {"expand-activation", "reparam", kRounding,
     "Spells GELU, Swish, HardSwish and Mish with the operators of older opsets", kExpandOptions,
     make_expand_activation},
    {"expand-attention", "reparam", kRounding,
     "Spells Attention and ONNX Runtime's own (packed, MultiHeadAttention) with products, mask and Softmax",
     kExpandAttentionOptions, make_expand_attention},
    {"expand-linear",
     "reparam",
     kRounding,
     "Makes standard operators of ONNX Runtime's FusedMatMul, FusedGemm and FusedConv",
     {},
     make_expand_linear},
    {"expand-norm", "reparam", kRounding, "Spells LayerNorm, RMSNorm and GroupNorm with the operators of older opsets",
     kExpandNormOptions, make_expand_norm},
    {"fold-idle-channels",
     "reparam",
     kRounding,
     "Makes one dense term of feed-forward channels that skip the activation (RePaViT)",
     {},
     make_fold_idle_channels},
    {"fold-channel-border",
     "reparam",
     kRounding,
     "Makes padding of a border that holds the bias of the convolution before it (DBB)",
     {},
     make_fold_channel_border},
    {"fold-input-affine",
     "reparam",
     kRounding,
     "Folds BatchNormalization and its like into the Conv, ConvTranspose, Gemm or MatMul after it",
     {},
     make_fold_input_affine},
    {"fold-lora", "reparam", kRounding, "Folds low-rank adapters (LoRA branches) into the Linear beside them",
     kMergeLinearOptions, make_fold_lora},
    {"fold-norm-affine", "reparam", kRounding,
     "Folds gain and bias of LayerNorm and RMSNorm into the Linears that read it", kFoldNormAffineOptions,
     make_fold_norm_affine},
    {"fold-output-affine",
     "reparam",
     kRounding,
     "Folds BatchNormalization and its like into the MatMul or Gemm some moves of elements before it",
     {},
     make_fold_output_affine},
    {"fold-value-bias",
     "reparam",
     kRounding,
     "Moves the value bias of attention into the bias of its output Linear",
     {},
     make_fold_value_bias},
    {"fuse-activation",
     "reparam",
     kRounding,
     "Makes one operator of the chains that spell GELU, SiLU, HardSwish, Mish or Softplus",
     {},
     make_fuse_activation},
    {"fuse-attention",
     "reparam",
     kRounding,
     "Makes one Attention operator of products, scale, mask and Softmax",
     {},
     make_fuse_attention},
    {"fuse-norm", "reparam", kRounding, "Makes one operator of the chains that spell LayerNorm, RMSNorm or GroupNorm",
     kFuseNormOptions, make_fuse_norm},
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
    {"merge-linear-chain", "reparam", kRounding, "Makes one Linear of two in a row where that saves work",
     kMergeLinearOptions, make_merge_linear_chain},
    {"merge-linear-sum", "reparam", kRounding, "Makes one Linear of those of one value whose results are added",
     kMergeLinearOptions, make_merge_linear_sum},
    {"merge-parallel-linears", "reparam", kRounding, "Makes one Linear and a Split of several Linears of one value",
     kMergeParallelLinearsOptions, make_merge_parallel_linears},
    {"remove-key-bias",
     "reparam",
     kRounding,
     "Removes the key bias of attention, which Softmax does not see",
     {},
     make_remove_key_bias},
    {"merge-parallel-attention",
     "reparam",
     kRounding,
     "Makes one attention with all heads of parallel ones",
     {},
     make_merge_parallel_attention},
    {"merge-parallel-ffn",
     "reparam",
     kRounding,
     "Makes one wide feed-forward layer of parallel ones, one Linear of those joined before the nonlinearity",
     {},
     make_merge_parallel_ffn},
    {"parallelize", "reparam", kLossy,
     "Makes pairs of consecutive residual blocks parallel, chosen by measured error (then merge-parallel-...)",
     kParallelizeOptions, make_parallelize},
};

}  // namespace

std::span<const PassInfo> reparam_passes() { return kPasses; }

}  // namespace onnxfold
