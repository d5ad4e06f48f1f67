// Add(MatMul(A, B), C) => Gemm(A, B, C)   A and B of rank 2, C broadcasting to the product only
//
// The product has no other reader. Floating types. In either order of Add.
// Rounding (the sum may be accumulated in another order).
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool is_gemm_type(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64 || dtype == DType::kFloat16;
}

// Does `addend` broadcast to [M, N] without widening it?
bool broadcasts_to(const Value& addend, const Value& product) {
  const auto dims = addend.static_dims();
  if (!dims || dims->size() > 2) return false;
  const auto& shape = *product.type().shape;
  for (std::size_t i = 0; i < dims->size(); ++i) {
    const std::int64_t dim = (*dims)[dims->size() - 1 - i];
    const Dim& target = shape[1 - i];
    if (dim != 1 && !(target.known() && *target.value == dim)) return false;
  }
  return true;
}

bool fuse(Graph& graph, Node& add) {
  for (std::size_t operand : {std::size_t{0}, std::size_t{1}}) {
    Node* product = sole_producer(add.input(operand), "MatMul");
    Value* addend = add.input(1 - operand);
    if (product == nullptr || addend == nullptr || addend == add.input(operand)) continue;
    const Value *a = product->input(0), *b = product->input(1);
    if (a->rank() != 2 || b->rank() != 2 || product->output()->rank() != 2) continue;
    if (!is_gemm_type(product->output()->dtype()) || !broadcasts_to(*addend, *product->output())) continue;
    Node* gemm = graph.insert({.op_type = "Gemm",
                               .inputs = {product->input(0), product->input(1), addend},
                               .outputs = {{add.output()->name(), add.output()->type()}},
                               .attributes = {},
                               .domain = "",
                               .name = product->name},
                              &add);
    return replace_and_erase(graph, add, *gemm->output());
  }
  return false;
}

class FuseGemm final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Add")) {
      // Below opset 11 Gemm needs its bias, which it has here; below 7 Add broadcasts by attribute.
      if (node->opset() >= 7 && fuse(graph, *node)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fuse_gemm(const PassOptions&) { return std::make_unique<FuseGemm>(); }

}  // namespace onnxfold
