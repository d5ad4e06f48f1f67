// Gather(E, tokens), ..., MatMul(h, W) with W ~ E^T => ..., MatMul(h, Transpose(E)); W ~ E alike
//
// As tie-embeddings, where no element of the head differs by more than `tolerance` times the largest magnitude of the
// table: heads that were saved in another precision. The head computes with the table's numbers then. Lossy.
#include "passes/tie/share_matrices.h"

namespace onnxfold {
namespace {

class TieNearEmbeddings final : public Pass {
 public:
  explicit TieNearEmbeddings(const PassOptions& options)
      : how_{options.text("scope") == "all", options.number("tolerance")} {}

  Result<bool> run(Graph& graph, PassContext& context) override { return share_matrices(graph, how_, context); }

 private:
  ShareMatrices how_;
};

}  // namespace

std::unique_ptr<Pass> make_tie_near_embeddings(const PassOptions& options) {
  return std::make_unique<TieNearEmbeddings>(options);
}

}  // namespace onnxfold
