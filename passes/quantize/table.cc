#include <algorithm>
#include <array>
#include <iterator>

#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_awq(const PassOptions&);
std::unique_ptr<Pass> make_bct(const PassOptions&);
std::unique_ptr<Pass> make_convert_blockwise_form(const PassOptions&);
std::unique_ptr<Pass> make_convert_float16(const PassOptions&);
std::unique_ptr<Pass> make_correct_bias(const PassOptions&);
std::unique_ptr<Pass> make_correct_low_rank(const PassOptions&);
std::unique_ptr<Pass> make_dequantize(const PassOptions&);
std::unique_ptr<Pass> make_dynamic_int8(const PassOptions&);
std::unique_ptr<Pass> make_equalize(const PassOptions&);
std::unique_ptr<Pass> make_gptq(const PassOptions&);
std::unique_ptr<Pass> make_hqq(const PassOptions&);
std::unique_ptr<Pass> make_qdq_int8(const PassOptions&);
std::unique_ptr<Pass> make_refit_norms(const PassOptions&);
std::unique_ptr<Pass> make_rtn(const PassOptions&);
std::unique_ptr<Pass> make_rtn_search(const PassOptions&);
std::unique_ptr<Pass> make_smooth(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kConvertBlockwiseFormOptions[] = {
    {"to", kChoice, "matmulnbits",
     "matmulnbits: com.microsoft operators; dequantizelinear: standard operators, opset 21",
     "matmulnbits|dequantizelinear"},
    {"accuracy-level", kChoice, "auto",
     "What a MatMulNBits made here may round its activations to: 0 or 1 nothing, 4 int8; auto: the faster one",
     "auto|0|1|2|3|4"},
};

// What every weight-only method offers.
constexpr OptionSpec kBits{"bits", kChoice, "4", "Bits of a weight; 3 are stored in 4", "2|3|4|8"};
constexpr OptionSpec kBlock{"block", kChoice, "32", "Elements that share a scale; channel: a whole row",
                            "16|32|64|128|256|channel"};
constexpr OptionSpec kScales{
    "scales", kChoice, "float32",
    "How scales are stored: float32 (the type of the activations), float16, int8 with one "
    "float32 for some 16 blocks, or powers of two as int8 exponents; runtimes decode them once",
    "float32|float16|int8|power-of-two"};
constexpr OptionSpec kSymmetric{"symmetric", kBool, "true", "Without zero points; false stores one per block"};
constexpr OptionSpec kForm{
    "form", kChoice, "matmulnbits",
    "matmulnbits: com.microsoft operators, any opset; dequantizelinear: standard operators, opset 21",
    "matmulnbits|dequantizelinear"};
constexpr OptionSpec kAccuracyLevel{
    "accuracy-level", kChoice, "auto",
    "What MatMulNBits may round its activations to: 0 or 1 nothing (slow for 2 and 8 bits), 4 int8 (fast for few rows, "
    "about 0.3 % error); auto: 0 for 4 bits where sequences are multiplied whole, 4 for decoders with a cache, else by "
    "the rows",
    "auto|0|1|2|3|4"};
constexpr OptionSpec kGather{"gather", kBool, "true", "Also the tables of Gather (embeddings)"};
constexpr OptionSpec kOthers{
    "others", kChoice, "none",
    "Weights of Conv, ConvTranspose, LSTM, GRU, RNN, left operands and weights of more than two "
    "axes, which no fast operator takes: none leaves them in float, 8 or bits (as the rest) "
    "stores them behind DequantizeLinear, opset 21",
    "none|8|bits"};
constexpr OptionSpec kMinElements{"min-elements", kInt, "1024", "Smaller weights are left alone", "0.."};
constexpr OptionSpec kInclude{"include", kPatterns, "",
                              "Only weights whose name, or whose node's name, matches one of these globs (a;b)"};
constexpr OptionSpec kExclude{"exclude", kPatterns, "",
                              "No weights whose name, or whose node's name, matches one of these globs (a;b)"};
constexpr OptionSpec kFormats{"formats", kPatterns, "",
                              "Formats of single weights, GLOB=BITS[/BLOCK][/sym|/asym] or GLOB=float (a=4/32;b=8)"};

// What every method that writes low-bit weights takes, behind the options of its rounding.
constexpr OptionSpec kStorageOptions[] = {kForm,        kAccuracyLevel, kGather,  kOthers,
                                          kMinElements, kInclude,       kExclude, kFormats};

template <std::size_t kFirst, std::size_t kSecond>
constexpr std::array<OptionSpec, kFirst + kSecond> joined(const OptionSpec (&first)[kFirst],
                                                          const OptionSpec (&second)[kSecond]) {
  std::array<OptionSpec, kFirst + kSecond> specs{};
  std::copy(std::begin(first), std::end(first), specs.begin());
  std::copy(std::begin(second), std::end(second), specs.begin() + kFirst);
  return specs;
}

constexpr auto kRtnOptions = joined({kBits, kBlock, kSymmetric, kScales}, kStorageOptions);

constexpr auto kRtnSearchOptions =
    joined({{"norms", kBool, "true",
             "Errors behind a norm count by its gain and bias, which say how large the inputs of a column are"},
            kBits,
            kBlock,
            kSymmetric,
            kScales},
           kStorageOptions);

constexpr auto kAwqOptions =
    joined({{"clip", kBool, "true", "Also clips the largest weights of a block where that helps"},
            kBits,
            kBlock,
            kSymmetric,
            kScales},
           kStorageOptions);

constexpr auto kHqqOptions =
    joined({kBits,
            kBlock,
            {"zero-points", kChoice, "rounded",
             "rounded: codes, as fast as rtn; float: any number (form=matmulnbits, slow)", "rounded|float"},
            kScales},
           kStorageOptions);

constexpr auto kGptqOptions = joined(
    {kBits,
     kBlock,
     kSymmetric,
     kScales,
     {"quality", kChoice, "fast",
      "fast: scales weighted by 1 / U_ii^2; high: scales judged by sweeping the block, then coordinate descent (twice "
      "the time)",
      "fast|high"},
     {"target", kBool, "true",
      "Aim at the outputs of the model before, residual stream included; false aims at the weights (half the time)"},
     {"damping", kFloat, "0", "Share of the mean second moment added to all inputs; 0: chosen from the tokens a column",
      "0..10"},
     {"held-out", kFloat, "0.05", "Share of the rows of data that is only used to judge", "0..0.5"},
     {"max-rows", kInt, "0", "Rows of data that enter a second moment, evenly chosen; 0: all", "0.."}},
    kStorageOptions);

constexpr OptionSpec kCorrectLowRankOptions[] = {
    {"rank", kInt, "16", "Of the pair beside each weight", "1.."},
    {"store", kChoice, "float16", "How the pair is stored", "float16|float32"},
};

constexpr OptionSpec kDequantizeOptions[] = {
    {"activations", kBool, "true", "Also takes the rounding of activations away; false only makes weights floats"},
};

constexpr OptionSpec kReduceRange{
    "reduce-range", kBool, "false",
    "Weights of 7 bits, for x86 processors without VNNI, whose products of 8 bits may saturate"};

constexpr OptionSpec kInt8Tables{"tables", kBool, "true",
                                 "Also embedding tables: int8 with one scale a row, decoded behind the Gather"};

constexpr OptionSpec kDynamicInt8Options[] = {
    {"convolutions", kBool, "true", "Also Conv (smaller, but no faster in ONNX Runtime)"},
    kInt8Tables,
    kReduceRange,
    kMinElements,
    kInclude,
    kExclude};

constexpr OptionSpec kQdqInt8Options[] = {
    {"ranges", kChoice, "mse",
     "Which range of the values seen on data 8 bits cover: min-max all; percentile; entropy (least divergence); mse "
     "(least squared error); cubed (least cubed error: clips less)",
     "min-max|percentile|entropy|mse|cubed"},
    {"percentile", kFloat, "99.99", "Percent of the values inside the range, for ranges=percentile", "50..100"},
    {"between", kChoice, "integer",
     "Sums, pools and activations between convolutions: integer also on 8 bits where runtimes have kernels; float "
     "nearer to the original, slower",
     "integer|float"},
    kInt8Tables,
    kReduceRange,
    {"min-elements", kInt, "0", "Smaller weights are left alone", "0.."},
    kInclude,
    kExclude};

constexpr OptionSpec kSmoothOptions[] = {
    {"strength", kFloat, "0.5", "0 moves nothing into weights, 1 all differences between channels", "0..1"},
};

constexpr OptionSpec kConvertFloat16Options[] = {
    {"to", kChoice, "float16", "bfloat16 stores weights only", "float16|bfloat16"},
    {"weights-only", kBool, "false", "Only store weights in 16 bits; computation stays in float32"},
    {"min-elements", kInt, "1024", "Smaller weights are left alone when only weights are stored", "0.."},
    {"keep", kPatterns, "", "Operators or nodes that stay in float32 besides those that are never converted (a;b)"},
};

constexpr OptionSpec kBctOptions[] = {
    {"weight-bits", kChoice, "8", "Of products, convolutions and recurrent layers; up to 4 are stored in 4, 0: float",
     "0|2|3|4|5|6|7|8"},
    {"embedding-bits", kChoice, "8", "Of tables that Gather reads and of position tables", "0|2|3|4|5|6|7|8"},
    {"parameter-bits", kChoice, "8", "Of biases, gains and other parameters", "0|2|3|4|5|6|7|8"},
    {"block", kChoice, "64", "Constants that share an exponent", "16|32|64|128|256|512|1024|2048|4096"},
    {"activation-bits", kChoice, "8", "Of intermediate results; 0: they, norms and functions stay in float",
     "0|4|5|6|7|8|16"},
    {"stream-bits", kChoice, "12",
     "Of what norms read and of the addends of it (the residual stream), at least; more than 8 are stored in 16",
     "8|10|12|16"},
    {"result-bits", kChoice, "12", "Of what the tables of functions and norms give, at least", "8|10|12|16"},
    {"activation-block", kInt, "1",
     "Channels of intermediate results that share an exponent; more need fewer shifts in integer products", "1.."},
    {"function-bits", kChoice, "8", "Of what the tables of GELU and other functions read; 0: functions stay in float",
     "0|4|5|6|7|8"},
    {"softmax-bits", kChoice, "10", "Of the distance from the largest score, which the table of exp reads; 0: float",
     "0|6|7|8|9|10|11|12"},
    {"probability-bits", kChoice, "16", "Of what Softmax gives; 8 flatten long rows", "8|16"},
    {"norm-bits", kChoice, "8", "Of a factor 4 of the sum of squares, in the table of 1/sqrt; 0: norms stay in float",
     "0|6|7|8|9|10|11|12"},
    {"refine", kBool, "true", "Take smaller exponents, which clip, where the squared error falls"},
    {"exclude", kPatterns, "", "No constants and no norms, softmaxes and functions whose name matches a glob (a;b)"},
};

constexpr PassInfo kPasses[] = {
    {"awq", "quantize", kLossy,
     "As rtn-search, with data: channels that see large inputs are scaled up first, folded exactly (AWQ)", kAwqOptions,
     make_awq},
    {"bct", "quantize", kLossy,
     "Puts weights and intermediate results into integer blocks with power-of-two scales, functions into tables",
     kBctOptions, make_bct},
    {"convert-blockwise-form", "quantize", kExact,
     "Stores blockwise low-bit weights for MatMulNBits or for DequantizeLinear", kConvertBlockwiseFormOptions,
     make_convert_blockwise_form},
    {"convert-float16", "quantize", kLossy, "Computes in float16 where that is safe, or stores weights in 16 bits",
     kConvertFloat16Options, make_convert_float16},
    {"correct-bias",
     "quantize",
     kLossy,
     "Gives quantized products and convolutions the mean of their results back, seen on data",
     {},
     make_correct_bias},
    {"correct-low-rank", "quantize", kLossy,
     "Adds thin factors beside quantized weights that make good what rounding took", kCorrectLowRankOptions,
     make_correct_low_rank},
    {"dequantize", "quantize", kLossy, "Makes quantized models floating point again, to quantize them anew",
     kDequantizeOptions, make_dequantize},
    {"dynamic-int8", "quantize", kLossy,
     "Runs MatMul, Gemm and Conv in int8; activations are rounded by the range of each run", kDynamicInt8Options,
     make_dynamic_int8},
    {"equalize",
     "quantize",
     kRounding,
     "Gives channels between two layers weights of equal range on both sides (cross-layer equalization)",
     {},
     make_equalize},
    {"gptq", "quantize", kLossy,
     "As rtn-search, with data: outputs change least, errors are made good by later columns", kGptqOptions, make_gptq},
    {"hqq", "quantize", kLossy, "As rtn, with zero points moved by half-quadratic optimisation", kHqqOptions, make_hqq},
    {"qdq-int8", "quantize", kLossy,
     "Runs MatMul, Gemm and Conv in int8; ranges of activations come from data (QDQ format)", kQdqInt8Options,
     make_qdq_int8},
    {"refit-norms",
     "quantize",
     kLossy,
     "Refits gains and biases of norms toward the model before quantization, on data",
     {},
     make_refit_norms},
    {"rtn", "quantize", kLossy, "Rounds weights to 2, 3, 4 or 8 bits in blocks (round to nearest)", kRtnOptions,
     make_rtn},
    {"rtn-search", "quantize", kLossy, "As rtn, with scales searched for the least error of the weights",
     kRtnSearchOptions, make_rtn_search},
    {"smooth", "quantize", kRounding, "Moves outliers of activations into the weights after them (SmoothQuant)",
     kSmoothOptions, make_smooth},
};

}  // namespace

std::span<const PassInfo> quantize_passes() { return kPasses; }

}  // namespace onnxfold
