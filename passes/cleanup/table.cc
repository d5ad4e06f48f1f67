#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_fold_batch_normalization(const PassOptions&);
std::unique_ptr<Pass> make_fold_constants(const PassOptions&);
std::unique_ptr<Pass> make_fold_gemm_transpose(const PassOptions&);
std::unique_ptr<Pass> make_fold_linear_bias(const PassOptions&);
std::unique_ptr<Pass> make_fold_linear_scale(const PassOptions&);
std::unique_ptr<Pass> make_fold_shapes(const PassOptions&);
std::unique_ptr<Pass> make_fuse_gemm(const PassOptions&);
std::unique_ptr<Pass> make_fuse_pad(const PassOptions&);
std::unique_ptr<Pass> make_inline_functions(const PassOptions&);
std::unique_ptr<Pass> make_lift_constants(const PassOptions&);
std::unique_ptr<Pass> make_lift_loop_invariants(const PassOptions&);
std::unique_ptr<Pass> make_merge_casts(const PassOptions&);
std::unique_ptr<Pass> make_merge_common_subexpressions(const PassOptions&);
std::unique_ptr<Pass> make_merge_initializers(const PassOptions&);
std::unique_ptr<Pass> make_merge_reshapes(const PassOptions&);
std::unique_ptr<Pass> make_merge_slices(const PassOptions&);
std::unique_ptr<Pass> make_merge_transposes(const PassOptions&);
std::unique_ptr<Pass> make_remove_constant_if(const PassOptions&);
std::unique_ptr<Pass> make_remove_dead_nodes(const PassOptions&);
std::unique_ptr<Pass> make_remove_identity(const PassOptions&);
std::unique_ptr<Pass> make_remove_neutral_arithmetic(const PassOptions&);
std::unique_ptr<Pass> make_unflatten_gemm(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kFoldConstantsOptions[] = {
    {"max-growth", kInt, "65536", "Bytes by which a result may be larger than the node's inputs", "0.."},
};

constexpr PassInfo kPasses[] = {
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
    {"lift-loop-invariants",
     "cleanup",
     kExact,
     "Reads what every turn of a Loop or Scan hands on unchanged from outside",
     {},
     make_lift_loop_invariants},
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
};

}  // namespace

std::span<const PassInfo> cleanup_passes() { return kPasses; }

}  // namespace onnxfold
