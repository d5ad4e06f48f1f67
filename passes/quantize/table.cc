#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_convert_blockwise_form(const PassOptions&);
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
    {"convert-blockwise-form", "quantize", kExact,
     "Stores blockwise low-bit weights for MatMulNBits or for DequantizeLinear", kConvertBlockwiseFormOptions,
     make_convert_blockwise_form},
    {"rtn", "quantize", kLossy, "Rounds MatMul, Gemm and Gather weights to 4 or 8 bits in blocks (round to nearest)",
     kRtnOptions, make_rtn},
};

}  // namespace

std::span<const PassInfo> quantize_passes() { return kPasses; }

}  // namespace onnxfold
