// Gather(E, tokens), ..., MatMul(h, Transpose(E)) => ..., MatMul(h, E') with E' = E^T stored
//
// Gives every product that reads an embedding table (through a Transpose or not) a constant of its own, in the layout
// it reads, so that head and table can be changed apart. Exact; the file grows by the head. The reverse of
// tie-embeddings.
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

bool looks_up(const Use& use) { return use.node != nullptr && use.node->is("Gather") && use.index == 0; }

// [columns, rows], made when it is read.
Tensor transposed(const Tensor& table) {
  const Dims dims{table.dims()[1], table.dims()[0]};
  return Tensor::deferred(table.dtype(), dims, [table]() -> Result<Buffer> {
    OF_ASSIGN(const Bytes bytes, table.bytes());
    const auto rows = static_cast<std::size_t>(table.dims()[0]), columns = static_cast<std::size_t>(table.dims()[1]);
    const std::size_t size = bytes.size() / (rows * columns);
    Buffer made(bytes.size());
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < columns; ++c) {
        std::copy_n(bytes.data() + (r * columns + c) * size, size, made.data() + (c * rows + r) * size);
      }
    }
    return made;
  });
}

class Untie final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    for (Value* table : graph.initializers()) {
      const Tensor* tensor = constant(table);
      const bool apart = tensor != nullptr && tensor->rank() == 2 && tensor->size() > 0 && is_float(tensor->dtype()) &&
                         *packed_bytes(tensor->dtype(), 1) * tensor->size() == tensor->nbytes();
      if (!apart || std::none_of(table->uses().begin(), table->uses().end(), looks_up)) continue;
      changed = separate(graph, *table, context) || changed;
    }
    return changed;
  }

 private:
  static bool separate(Graph& graph, Value& table, PassContext& context) {
    const Tensor tensor = *table.constant();
    Value* plain = nullptr;
    bool changed = false;
    const std::vector<Use> uses = table.uses();
    for (const Use& use : uses) {
      if (use.node == nullptr || use.node->graph() != &graph || use.index > 1) continue;
      if (use.index == 1 && (use.node->is("MatMul") || use.node->is("Gemm"))) {
        if (plain == nullptr) plain = add_constant(graph, tensor, table.name() + "_head");
        graph.set_input(*use.node, 1, plain);
      } else if (use.node->is("Transpose") && swaps_axes(*use.node)) {
        Value* head = add_constant(graph, transposed(tensor), table.name() + "_head");
        if (!replace_and_erase(graph, *use.node, *head)) continue;
      } else {
        continue;
      }
      context.applied(table.name(), "its product has a constant of its own", 0, tensor.nbytes());
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_untie(const PassOptions&) { return std::make_unique<Untie>(); }

}  // namespace onnxfold
