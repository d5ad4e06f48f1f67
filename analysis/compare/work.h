// What a model costs to hold and to run: parameters, and multiply-accumulates of one sample.
#pragma once

#include <cstdint>
#include <optional>

#include "exec/executor.h"
#include "ir/model.h"

namespace onnxfold {

// Elements of floating-point constants, subgraphs included; a low-bit weight (MatMulNBits, GatherBlockQuantized,
// DequantizeLinear, integer products) counts its own elements, its scales and zero points nothing. Shared ones once.
std::int64_t count_parameters(Model& model);

// Multiply-accumulates of products, convolutions and attention when the model runs on `feeds`, from the shapes of that
// run. None where it cannot be told: products inside If, Loop, Scan or functions, recurrent layers, Einsum.
// Errors: the executor's.
Result<std::optional<std::int64_t>> count_macs(const Model& model, const Feeds& feeds);

}  // namespace onnxfold
