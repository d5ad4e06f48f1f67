// Reshape(Gemm(Reshape(x, [-1, K]), B, c), [.., N]) => Add(MatMul(x, B), c)   x of rank 3 or more
//
// Exporters flatten leading axes for Gemm; MatMul takes them as they are. x and the result have the same leading axes,
// provably; both inner values have no other reader; alpha = beta = 1, transA = 0; with transB, B is constant and read
// by this Gemm alone (it is stored transposed); c has rank 0 or 1, or rank 2 with one row.
// Rounding (the bias is added after the sum).
#include "ir/match.h"
#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// The same leading axes in every run: all but the last.
bool same_leading(const Value& a, const Value& b) {
  if (!a.type().shape || !b.type().shape || a.type().shape->size() != b.type().shape->size()) return false;
  const std::vector<Dim>&left = *a.type().shape, &right = *b.type().shape;
  for (std::size_t i = 0; i + 1 < left.size(); ++i) {
    if (!same_dim(left[i], right[i])) return false;
  }
  return true;
}

std::optional<std::int64_t> last_dim(const Value& value) {
  if (!value.type().shape || value.type().shape->empty()) return {};
  const Dim& dim = value.type().shape->back();
  return dim.known() ? dim.value : std::nullopt;
}

bool plain(const Node& gemm) {
  const bool no_bias = gemm.input(2) == nullptr;
  return gemm.attr_int("transA", 0) == 0 && gemm.attr_float("alpha", 1) == 1 &&
         (no_bias || gemm.attr_float("beta", 1) == 1);
}

bool is_row(const Value* bias) {
  if (bias == nullptr) return true;
  const auto dims = bias->static_dims();
  return dims && (dims->size() < 2 || (dims->size() == 2 && (*dims)[0] == 1));
}

// A [rows, cols] matrix transposed, elements of whole bytes.
Tensor transposed(const Tensor& tensor) {
  const std::int64_t rows = tensor.dims()[0], cols = tensor.dims()[1];
  return Tensor::deferred(tensor.dtype(), {cols, rows}, [tensor, rows, cols]() -> Result<Buffer> {
    OF_ASSIGN(const Bytes bytes, tensor.bytes());
    const std::int64_t width = bit_width(tensor.dtype()) / 8;
    Buffer out(bytes.size());
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < cols; ++j) {
        std::copy_n(bytes.data() + (i * cols + j) * width, width, out.data() + (j * rows + i) * width);
      }
    }
    return out;
  });
}

struct Match {
  Node *flatten, *gemm, *restore;
};

std::optional<Match> match(Node& gemm) {
  Node* flatten = sole_producer(gemm.input(0), "Reshape");
  Node* restore = sole_consumer(gemm.output());
  if (flatten == nullptr || restore == nullptr || !restore->is("Reshape") || restore->input(0) != gemm.output())
    return {};
  const Value &x = *flatten->input(0), &y = *restore->output();
  const auto width = last_dim(x), flat_width = last_dim(*gemm.input(0)), out_width = last_dim(*gemm.output());
  if (!plain(gemm) || !is_row(gemm.input(2)) || x.rank().value_or(0) < 3 || !same_leading(x, y)) return {};
  if (!width || width != flat_width || !out_width || out_width != last_dim(y)) return {};
  return Match{flatten, &gemm, restore};
}

bool rewrite(Graph& graph, const Match& m) {
  Value* weight = m.gemm->input(1);
  if (m.gemm->attr_int("transB", 0) != 0) {
    const Tensor* tensor = constant(weight);
    if (tensor == nullptr || weight->uses().size() != 1 || tensor->rank() != 2 || bit_width(tensor->dtype()) % 8 != 0) {
      return false;
    }
    weight = add_constant(graph, transposed(*tensor), weight->name());
  }
  Value* bias = m.gemm->input(2);
  const Value& result = *m.restore->output();
  const OutputSpec out{result.name(), result.type()};
  Node* made = graph.insert({"MatMul", {m.flatten->input(0), weight}, {out}, {}, "", m.gemm->name}, m.restore);
  if (bias != nullptr) made = graph.insert({"Add", {made->output(), bias}, {out}, {}, "", ""}, m.restore);
  return replace_and_erase(graph, *m.restore, *made->output());
}

class UnflattenGemm final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Gemm")) {
      if (node->opset() < 7) continue;
      const auto found = match(*node);
      if (found && rewrite(graph, *found)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_unflatten_gemm(const PassOptions&) { return std::make_unique<UnflattenGemm>(); }

}  // namespace onnxfold
