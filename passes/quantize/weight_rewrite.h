// Puts block-quantized weights into the graph: the half that all weight-only methods share.
//
// form=matmulnbits: MatMul and Gemm become com.microsoft MatMulNBits, Gather becomes GatherBlockQuantized; these need
// no opset. form=dequantizelinear: a standard DequantizeLinear stands in front of the unchanged operator; opset 21 (the
// model is raised when it is older and something quantizes).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <tuple>

#include "passes/quantize/blockwise.h"
#include "passes/quantize/weight_target.h"

namespace onnxfold {

// Codes, scales and zero points of a target, asked for part by part (0, 1, 2) when the file is written; `parts` says
// how many will be asked for.
using BlocksFactory = std::function<std::shared_ptr<LazyBlocks>(const WeightTarget& target, int parts)>;

class WeightRewriter {
 public:
  explicit WeightRewriter(WeightOptions options) : options_(std::move(options)) {}

  // Quantizes every target of `graph`. Value: did anything change. Call it for the main graph first: it raises the
  // opset when any graph of the model needs that. Errors: unsupported when the opset cannot be raised.
  Result<bool> run(Graph& graph, PassContext& context, const BlocksFactory& make);

 private:
  struct Parts;
  Result<bool> raise_opset(Graph& graph, PassContext& context) const;
  void rewrite(Graph& graph, const WeightTarget& target, const BlocksFactory& make, PassContext& context);
  const Parts& parts_of(const WeightTarget& target, const BlocksFactory& make);
  void emit_matmul(Graph& graph, const WeightTarget& target, const Parts& parts) const;
  void emit_gather(Graph& graph, const WeightTarget& target, const Parts& parts) const;
  void emit_standard(Graph& graph, const WeightTarget& target, const Parts& parts) const;

  // The initializers that stand for a weight in one layout.
  struct Parts {
    Value* codes = nullptr;
    Value* scales = nullptr;
    Value* zeros = nullptr;
    std::int64_t bytes = 0;
  };

  WeightOptions options_;
  // Weights that several nodes read in the same way are stored once, beside the weight: (value, transposed, table,
  // type). A table and a product need other shapes of the same numbers.
  std::map<std::tuple<const Value*, bool, bool, DType>, Parts> made_;
};

}  // namespace onnxfold
