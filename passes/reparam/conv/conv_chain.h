// Two convolutions of which the second reads only the first, seen as one.
#pragma once

#include <optional>
#include <string>

#include "passes/reparam/conv/conv_node.h"

namespace onnxfold {

struct ConvChain {
  Node* first = nullptr;
  Node* second = nullptr;
  ConvShape first_shape, second_shape;
  ConvShape shape;  // of both as one

  // Multiply-adds per output position of the two, and the numbers in their weights.
  std::int64_t work() const;
  std::int64_t weights() const;
};

// `second` and the convolution it reads, when nothing else reads that one's result and one convolution can give the
// same numbers at the borders too: padding of `second` is zeros of the inner map, which a bias of `first`, or a larger
// kernel of it, would have filled. Nullopt otherwise, with the reason in `why` if there are two convolutions.
std::optional<ConvChain> conv_chain(const Node& second, std::string& why);
// The numbers of both as one.
Result<ConvKernel> conv_kernel(const ConvChain& chain);

}  // namespace onnxfold
