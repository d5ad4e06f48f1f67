// Puts block-quantized weights into the graph: the half that all weight-only methods share.
//
// form=matmulnbits: MatMul and Gemm become com.microsoft MatMulNBits, Gather becomes GatherBlockQuantized; these need
// no opset. form=dequantizelinear: a standard DequantizeLinear stands in front of the unchanged operator; opset 21 (the
// model is raised when it is older and something quantizes). What has no fast form is always stored the second way.
// A weight that a product and a Gather read (tied embeddings) is stored once.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <tuple>

#include "passes/quantize/blockwise.h"
#include "passes/quantize/weight_parts.h"
#include "passes/quantize/weight_target.h"

namespace onnxfold {

// Codes, scales and zero points of a target in target.format, made when the file is written. For a tied weight it is
// asked once, for whichever target comes first.
using BlocksFactory = std::function<std::shared_ptr<LazyBlocks>(const WeightTarget& target)>;

class WeightRewriter {
 public:
  explicit WeightRewriter(WeightOptions options) : options_(std::move(options)) {}

  // Quantizes every target of `graph`. Value: did anything change. Call it for the main graph first: it raises the
  // opset when any graph of the model needs that. Errors: unsupported when the opset cannot be raised.
  Result<bool> run(Graph& graph, PassContext& context, const BlocksFactory& make);

  const WeightOptions& options() const { return options_; }

 private:
  // Targets of one weight that are stored alike: (value, spread rows, type, bits, block).
  using Key = std::tuple<const Value*, std::int64_t, DType, int, std::int64_t>;
  static Key key_of(const WeightTarget& target);
  Result<bool> raise_opset(Graph& graph, PassContext& context) const;
  void find_tied(const std::vector<WeightTarget>& targets);
  void rewrite(Graph& graph, const WeightTarget& target, const BlocksFactory& make, PassContext& context);
  const WeightParts& parts_of(const WeightTarget& target, const BlocksFactory& make);
  void emit_matmul(Graph& graph, const WeightTarget& target, const WeightParts& parts) const;
  void emit_gather(Graph& graph, const WeightTarget& target, const WeightParts& parts) const;
  void emit_standard(Graph& graph, const WeightTarget& target, const WeightParts& parts) const;

  WeightOptions options_;
  std::set<Key> tied_;
  // Weights that several nodes read in the same way are stored once, beside the weight.
  std::map<std::pair<Key, WeightUse>, WeightParts> made_;
};

// A pass that decides block by block, from the weights alone.
class RulePass final : public Pass {
 public:
  // `norms`: errors of columns count by the norm in front (norm_importance.h).
  RulePass(const WeightOptions& options, BlockRule rule, bool norms = false)
      : rewriter_(options), rule_(rule), norms_(norms) {}
  Result<bool> run(Graph& graph, PassContext& context) override;

 private:
  WeightRewriter rewriter_;
  BlockRule rule_;
  bool norms_;
};

}  // namespace onnxfold
