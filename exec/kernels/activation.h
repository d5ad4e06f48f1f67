// The activation functions that other operators carry inside: recurrent layers, FusedConv, FusedGemm.
#pragma once

#include <optional>
#include <string_view>

#include "exec/kernel.h"

namespace onnxfold {

struct Activation {
  enum class Kind {
    kNone,
    kAffine,
    kElu,
    kHardSigmoid,
    kLeakyRelu,
    kRelu,
    kScaledTanh,
    kSigmoid,
    kSoftplus,
    kSoftsign,
    kTanh,
    kThresholdedRelu,
    kClip,  // [alpha, beta]
  } kind = Kind::kNone;
  double alpha = 0, beta = 0;
};

// By name, without regard to case; "" is kNone. Left-out parameters take the operator's defaults. Errors: unsupported,
// naming node and function.
Result<Activation> find_activation(const KernelContext& ctx, std::string_view name, std::optional<float> alpha,
                                   std::optional<float> beta);

void apply_activation(const Activation& activation, float* values, std::int64_t count);
void apply_activation(const Activation& activation, double* values, std::int64_t count);

}  // namespace onnxfold
