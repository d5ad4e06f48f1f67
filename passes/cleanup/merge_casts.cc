// Cast(Cast(x, A), B) => Cast(x, B)   or x, when x already has type B.
//
// A must hold every value of x's type exactly, and B must be a number type. An inner Cast with other readers stays for
// them. Exact.
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// Bits of magnitude that a type holds exactly as integers; for floats the significand.
int exact_bits(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 53;
    case DType::kFloat32:
      return 24;
    case DType::kFloat16:
      return 11;
    case DType::kBFloat16:
      return 8;
    default:
      return is_integer(dtype) ? bit_width(dtype) - (is_signed(dtype) ? 1 : 0) : 0;
  }
}

bool holds_all_values(DType from, DType to) {
  if (from == to) return true;
  if (from == DType::kBool) return exact_bits(to) > 0;
  if (is_float(from)) {
    const bool half = from == DType::kFloat16 || from == DType::kBFloat16;
    return (half && (to == DType::kFloat32 || to == DType::kFloat64)) ||
           (from == DType::kFloat32 && to == DType::kFloat64);
  }
  if (!is_integer(from) || exact_bits(to) < exact_bits(from)) return false;
  return is_float(to) || is_signed(to) || !is_signed(from);
}

bool is_number(DType dtype) { return dtype == DType::kBool || exact_bits(dtype) > 0; }

bool merge(Graph& graph, Node& outer) {
  Value* middle = outer.input(0);
  Node* inner = middle == nullptr ? nullptr : middle->producer();
  if (inner == nullptr || !inner->is("Cast") || inner->graph() != &graph || inner->input(0) == nullptr) return false;
  const DType from = inner->input(0)->dtype();
  const DType through = static_cast<DType>(inner->attr_int("to", 0));
  const DType to = static_cast<DType>(outer.attr_int("to", 0));
  if (!is_number(from) || !is_number(to) || !holds_all_values(from, through)) return false;
  if (from == to) return replace_and_erase(graph, outer, *inner->input(0));
  graph.set_input(outer, 0, inner->input(0));
  if (middle->uses().empty()) graph.erase(*inner);
  return true;
}

class MergeCasts final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes_of("Cast")) {
      while (!node->erased() && merge(graph, *node)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_casts(const PassOptions&) { return std::make_unique<MergeCasts>(); }

}  // namespace onnxfold
