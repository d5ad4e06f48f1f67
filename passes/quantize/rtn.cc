// MatMul(x, W), Gemm(x, W, c), Gather(T, i) => the same on W or T rounded to 4 or 8 bits in blocks.
//
// Conditions: W or T is constant (behind Transpose, Cast or Identity or not), of rank 2, of a floating type, and gets
// smaller. Lossy. Round to nearest (blockwise.h has the rule).
#include "ir/match.h"
#include "passes/quantize/weight_rewrite.h"

namespace onnxfold {
namespace {

class Rtn final : public Pass {
 public:
  explicit Rtn(const WeightOptions& options) : format_(options.format), rewriter_(options) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    return rewriter_.run(graph, context, [this](const WeightTarget& target, int parts) {
      return std::make_shared<LazyBlocks>(*constant(target.weight), target.shape, format_, target.type, parts);
    });
  }

 private:
  BlockFormat format_;
  WeightRewriter rewriter_;
};

}  // namespace

std::unique_ptr<Pass> make_rtn(const PassOptions& options) { return std::make_unique<Rtn>(weight_options(options)); }

}  // namespace onnxfold
