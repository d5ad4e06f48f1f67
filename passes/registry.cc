#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_convert_blockwise_form(const PassOptions&);
std::unique_ptr<Pass> make_fold_batch_normalization(const PassOptions&);
std::unique_ptr<Pass> make_fold_constants(const PassOptions&);
std::unique_ptr<Pass> make_fold_gemm_transpose(const PassOptions&);
std::unique_ptr<Pass> make_fold_input_affine(const PassOptions&);
std::unique_ptr<Pass> make_fold_linear_bias(const PassOptions&);
std::unique_ptr<Pass> make_fold_linear_scale(const PassOptions&);
std::unique_ptr<Pass> make_fold_shapes(const PassOptions&);
std::unique_ptr<Pass> make_fuse_gemm(const PassOptions&);
std::unique_ptr<Pass> make_fuse_pad(const PassOptions&);
std::unique_ptr<Pass> make_inline_functions(const PassOptions&);
std::unique_ptr<Pass> make_lift_constants(const PassOptions&);
std::unique_ptr<Pass> make_merge_casts(const PassOptions&);
std::unique_ptr<Pass> make_merge_common_subexpressions(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_branches(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_chain(const PassOptions&);
std::unique_ptr<Pass> make_merge_conv_concat(const PassOptions&);
std::unique_ptr<Pass> make_merge_initializers(const PassOptions&);
std::unique_ptr<Pass> make_merge_reshapes(const PassOptions&);
std::unique_ptr<Pass> make_merge_slices(const PassOptions&);
std::unique_ptr<Pass> make_merge_transposes(const PassOptions&);
std::unique_ptr<Pass> make_remove_constant_if(const PassOptions&);
std::unique_ptr<Pass> make_remove_dead_nodes(const PassOptions&);
std::unique_ptr<Pass> make_remove_identity(const PassOptions&);
std::unique_ptr<Pass> make_remove_neutral_arithmetic(const PassOptions&);
std::unique_ptr<Pass> make_unflatten_gemm(const PassOptions&);
std::unique_ptr<Pass> make_rtn(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kConvertBlockwiseFormOptions[] = {
    {"to", kChoice, "matmulnbits",
     "matmulnbits: com.microsoft operators; dequantizelinear: standard operators, opset 21",
     "matmulnbits|dequantizelinear"},
    {"accuracy-level", kInt, "4", "What a MatMulNBits made here may round its activations to: 0 or 1 nothing, 4 int8",
     "0..4"},
};

constexpr OptionSpec kFoldConstantsOptions[] = {
    {"max-growth", kInt, "65536", "Bytes by which a result may be larger than the node's inputs", "0.."},
};

constexpr OptionSpec kMergeConvOptions[] = {
    {"max-extra-work", kInt, "16", "Multiply-adds per output element that a merge may add for each addition it saves",
     "0.."},
};

constexpr OptionSpec kRtnOptions[] = {
    {"bits", kChoice, "4", "Bits of a weight", "4|8"},
    {"block", kChoice, "32", "Elements that share a scale", "16|32|64|128|256"},
    {"symmetric", kBool, "true", "Without zero points; false stores one per block"},
    {"form", kChoice, "matmulnbits",
     "matmulnbits: com.microsoft operators, any opset; dequantizelinear: standard operators, opset 21",
     "matmulnbits|dequantizelinear"},
    {"accuracy-level", kInt, "4",
     "What MatMulNBits may round its activations to: 0 or 1 nothing (slow for 8 bits), 4 int8 (fast, about 0.3 % "
     "error)",
     "0..4"},
    {"gather", kBool, "true", "Also the tables of Gather (embeddings)"},
    {"min-elements", kInt, "1024", "Smaller weights are left alone", "0.."},
    {"include", kPatterns, "", "Only weights whose name, or whose node's name, matches one of these globs (a;b)"},
    {"exclude", kPatterns, "", "No weights whose name, or whose node's name, matches one of these globs (a;b)"},
};

constexpr PassInfo kPasses[] = {
    // ---- cleanup ----
    {"fold-batch-normalization",
     "cleanup",
     kRounding,
     "Folds BatchNormalization into the Conv, ConvTranspose or Gemm before it",
     {},
     make_fold_batch_normalization},
    {"fold-constants", "cleanup", kRounding, "Computes nodes whose inputs are all constant", kFoldConstantsOptions,
     make_fold_constants},
    {"fold-gemm-transpose",
     "cleanup",
     kExact,
     "Turns a Transpose before Gemm into transA or transB",
     {},
     make_fold_gemm_transpose},
    {"fold-linear-bias",
     "cleanup",
     kRounding,
     "Adds a constant per channel to the bias of Conv, ConvTranspose or Gemm",
     {},
     make_fold_linear_bias},
    {"fold-linear-scale",
     "cleanup",
     kRounding,
     "Multiplies a constant per channel into the weight of Conv, ConvTranspose, Gemm or MatMul",
     {},
     make_fold_linear_scale},
    {"fold-shapes",
     "cleanup",
     kExact,
     "Replaces shape arithmetic by what is known of its result",
     {},
     make_fold_shapes},
    {"fuse-gemm", "cleanup", kRounding, "Makes one Gemm of a MatMul of matrices and an Add", {}, make_fuse_gemm},
    {"fuse-pad", "cleanup", kExact, "Moves zero padding into Conv and AveragePool", {}, make_fuse_pad},
    {"inline-functions",
     "cleanup",
     kExact,
     "Replaces calls of model-local functions by their bodies",
     {},
     make_inline_functions},
    {"lift-constants", "cleanup", kExact, "Makes initializers of Constant nodes", {}, make_lift_constants},
    {"merge-casts", "cleanup", kExact, "Makes one Cast of two where the first loses nothing", {}, make_merge_casts},
    {"merge-common-subexpressions",
     "cleanup",
     kExact,
     "Computes equal expressions once",
     {},
     make_merge_common_subexpressions},
    {"merge-initializers", "cleanup", kExact, "Stores equal initializers once", {}, make_merge_initializers},
    {"merge-reshapes",
     "cleanup",
     kExact,
     "Makes one Reshape of consecutive Reshape, Flatten, Squeeze and Unsqueeze",
     {},
     make_merge_reshapes},
    {"merge-slices", "cleanup", kExact, "Makes one Slice of consecutive ones on different axes", {}, make_merge_slices},
    {"merge-transposes", "cleanup", kExact, "Makes one Transpose of two, or none", {}, make_merge_transposes},
    {"remove-constant-if",
     "cleanup",
     kExact,
     "Replaces an If with constant condition by the branch it takes",
     {},
     make_remove_constant_if},
    {"remove-dead-nodes",
     "cleanup",
     kExact,
     "Removes nodes, initializers and functions that no output depends on",
     {},
     make_remove_dead_nodes},
    {"remove-identity", "cleanup", kExact, "Removes nodes that give back their input", {}, make_remove_identity},
    {"remove-neutral-arithmetic",
     "cleanup",
     kRounding,
     "Removes x + 0, x * 1 and their like",
     {},
     make_remove_neutral_arithmetic},
    {"unflatten-gemm",
     "cleanup",
     kRounding,
     "Makes MatMul and Add of a Gemm between two Reshapes that flatten and restore leading axes",
     {},
     make_unflatten_gemm},
    // ---- quantize ----
    {"convert-blockwise-form", "quantize", kExact,
     "Stores blockwise low-bit weights for MatMulNBits or for DequantizeLinear", kConvertBlockwiseFormOptions,
     make_convert_blockwise_form},
    {"rtn", "quantize", kLossy, "Rounds MatMul, Gemm and Gather weights to 4 or 8 bits in blocks (round to nearest)",
     kRtnOptions, make_rtn},
    // ---- reparam ----
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

std::span<const PassInfo> all_passes() { return kPasses; }

const PassInfo* find_pass(std::string_view name) {
  for (const PassInfo& info : kPasses) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::string nearest_pass(std::string_view name) {
  std::size_t nearest = name.size() / 3 + 2;
  std::string best;
  for (const PassInfo& info : kPasses) {
    const std::size_t distance = edit_distance(info.name, name);
    if (distance < nearest) {
      nearest = distance;
      best = info.name;
    }
  }
  return best;
}

}  // namespace onnxfold
