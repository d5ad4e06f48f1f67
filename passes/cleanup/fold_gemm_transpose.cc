// Gemm(Transpose(A), B) => Gemm<transA = 1 - transA>(A, B), likewise for B
//
// Transpose of rank 2. Other readers of the transposed value keep it.
// Exact.
#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

class FoldGemmTranspose final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* gemm : graph.nodes_of("Gemm")) {
      for (std::size_t operand : {std::size_t{0}, std::size_t{1}}) {
        if (fold(graph, *gemm, operand)) changed = true;
      }
    }
    return changed;
  }

 private:
  static bool fold(Graph& graph, Node& gemm, std::size_t operand) {
    Value* value = gemm.input(operand);
    Node* transpose = value == nullptr ? nullptr : value->producer();
    if (transpose == nullptr || !transpose->is("Transpose") || transpose->graph() != &graph) return false;
    if (permutation(*transpose) != std::vector<std::int64_t>{1, 0}) return false;
    const char* attribute = operand == 0 ? "transA" : "transB";
    const bool transposed = gemm.attr_int(attribute, 0) != 0;
    graph.set_input(gemm, operand, transpose->input(0));
    if (transposed) {
      gemm.remove_attribute(attribute);
    } else {
      gemm.set_attribute(attribute, std::int64_t{1});
    }
    erase_if_unused(graph, *value);
    return true;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_gemm_transpose(const PassOptions&) { return std::make_unique<FoldGemmTranspose>(); }

}  // namespace onnxfold
