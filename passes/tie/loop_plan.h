// Which of the unique layers every layer of a looped stack uses (Relaxed Recursive Transformers, arXiv 2410.20672).
//
// L layers in B loops keep K = L / B unique ones. Layers and unique layers count from 0.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "ir/result.h"

namespace onnxfold {

enum class Looping {
  kCycle,          // 0 1 2 0 1 2 0 1 2: the K layers run B times
  kSequence,       // 0 0 0 1 1 1 2 2 2: neighbours share
  kCycleReversed,  // 0 1 2 2 1 0 2 1 0: every pass but the first backwards
};

// Of "cycle", "sequence" or "cycle-rev". REQUIRES one of them.
Looping looping_named(std::string_view name);

// The unique layer of every layer. Errors: invalid_argument when `loops` does not divide `layers`.
Result<std::vector<std::size_t>> looped_layers(Looping looping, std::size_t layers, std::size_t loops);

// K layers at even steps with the first and the last one, floor((i (L - 1)) / (K - 1)): what unique layer i starts as.
// REQUIRES 1 <= unique <= layers. A single one is the first layer.
std::vector<std::size_t> stepwise_layers(std::size_t layers, std::size_t unique);

}  // namespace onnxfold
