// Gather(E, tokens), ..., MatMul(h, W) with W = E^T => ..., MatMul(h, Transpose(E)); Gemm alike
//
// A head that repeats the embedding table reads the table itself, so that the file holds one copy. Proved bit by bit.
// With scope=all, any two constant matrices that are each other's transposes become one. Exact: the product reads the
// same numbers in the same layout. tie-near-embeddings does it within a tolerance, untie is the reverse.
#include "passes/tie/share_matrices.h"

namespace onnxfold {
namespace {

class TieEmbeddings final : public Pass {
 public:
  explicit TieEmbeddings(const PassOptions& options) : how_{options.text("scope") == "all", std::nullopt} {}

  Result<bool> run(Graph& graph, PassContext& context) override { return share_matrices(graph, how_, context); }

 private:
  ShareMatrices how_;
};

}  // namespace

std::unique_ptr<Pass> make_tie_embeddings(const PassOptions& options) {
  return std::make_unique<TieEmbeddings>(options);
}

}  // namespace onnxfold
