// Linear(LayerNorm(x, g, c), W, b) => Linear(LayerNorm(x, 1, 0), W', b')   also RMSNorm
//
// W' = diag(g) W, b' = b + c W, in double, rounded once. The norm is one operator (gain becomes ones, the bias goes) or
// a chain (its Mul and Add go). Its result is read by Linears only (com.microsoft Attention too), directly or through
// operators that keep the last axis whole (Reshape, Transpose, Gather of positions, means over positions...). A reader
// without bias gets one; refused where that makes more nodes than max-extra-nodes, or copies of shared weights more
// than max-growth bytes. M1 and M2 of the notes; SliceGPT (arXiv 2401.15024) and QuaRot fold the same way. Rounding.
#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/norm.h"
#include "ir/match.h"
#include "passes/last_axis.h"
#include "passes/pass.h"
#include "passes/reparam/linear/linear_numbers.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// A Linear, or the packed projection inside com.microsoft Attention.
struct Reader {
  std::optional<Linear> linear;
  Node* attention = nullptr;
};

struct Readers {
  std::vector<Reader> all;
  std::string why;  // not empty: something else reads the norm
};

struct Affine {
  std::optional<Numbers> gain, bias;  // none: ones, zeros
};

// x W + b with W constant [in, 3 * hidden] inside the operator.
bool packed_projection(const Node& node, std::int64_t width) {
  if (!node.is("Attention", "com.microsoft")) return false;
  const Tensor* weight = constant(node.input(1));
  const bool bias = node.input(2) == nullptr || constant(node.input(2)) != nullptr;
  return bias && weight != nullptr && weight->rank() == 2 && is_float(weight->dtype()) && weight->dims()[0] == width;
}

void collect(const Value& value, std::int64_t width, Readers& readers) {
  for (const Use& use : value.uses()) {
    Node* node = use.node;
    if (node == nullptr || node->graph() != value.graph()) {
      readers.why = node == nullptr ? "its result is an output" : "a subgraph reads its result";
      continue;
    }
    if (node->is("Shape") || node->is("Size")) continue;
    if (use.index == 0 && keeps_last_axis(*node, width)) {
      for (const Value* output : node->outputs()) {
        if (output != nullptr) collect(*output, width, readers);
      }
      continue;
    }
    const auto linear = use.index == 0 ? linear_at(*node) : std::nullopt;
    if (linear && linear->in == width) {
      readers.all.push_back({linear, nullptr});
    } else if (use.index == 0 && packed_projection(*node, width)) {
      readers.all.push_back({std::nullopt, node});
    } else {
      readers.why = node->label() + " reads its result too";
    }
  }
}

bool all_equal(const Numbers& numbers, double value) {
  return std::all_of(numbers.begin(), numbers.end(), [value](double number) { return number == value; });
}

Result<Affine> affine_of(const Norm& norm) {
  Affine affine;
  if (norm.gain != nullptr) {
    OF_ASSIGN(affine.gain, to_doubles(*norm.gain->constant()));
    if (all_equal(*affine.gain, 1)) affine.gain.reset();
  }
  if (norm.bias != nullptr) {
    OF_ASSIGN(affine.bias, to_doubles(*norm.bias->constant()));
    if (all_equal(*affine.bias, 0)) affine.bias.reset();
  }
  return affine;
}

// The Mul or Add of a chain that brings in `parameter`.
Node* step_of(const Norm& norm, const char* op, const Value* parameter) {
  for (Node* node : norm.nodes) {
    if (!node->is(op)) continue;
    for (const std::size_t i : {0, 1}) {
      if (behind_identity(node->input(i)) == parameter) return node;
    }
  }
  return nullptr;
}

void remove_step(Graph& graph, const Norm& norm, const char* op, const Value* parameter) {
  Node* node = step_of(norm, op, parameter);
  replace_and_erase(graph, *node, *node->input(behind_identity(node->input(0)) == parameter ? 1 : 0));
}

void drop_input(Graph& graph, Node& node, std::size_t index, Value* replacement) {
  Value* old = node.input(index);
  graph.set_input(node, index, replacement);
  if (old != nullptr) erase_if_unused(graph, *old);
}

class FoldNormAffine final : public Pass {
 public:
  explicit FoldNormAffine(const PassOptions& options)
      : max_extra_nodes_(options.integer("max-extra-nodes")),
        max_growth_(options.integer("max-growth")),
        chains_(options.flag("chains")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    for (const Norm& norm : find_norms(graph)) {
      OF_ASSIGN(const bool folded, fold(graph, norm, context));
      changed = changed || folded;
    }
    return changed;
  }

 private:
  Result<bool> fold(Graph& graph, const Norm& norm, PassContext& context) const {
    if (norm.gain == nullptr && norm.bias == nullptr) return false;
    OF_ASSIGN(const Affine affine, affine_of(norm));
    if (!affine.gain && !affine.bias) return false;
    Readers readers;
    collect(*norm.output, norm.width, readers);
    if (readers.all.empty()) return false;
    if (readers.why.empty()) readers.why = objection(norm, affine, readers.all);
    if (!readers.why.empty()) {
      context.skipped(norm.last()->label(), readers.why);
      return false;
    }
    std::vector<LinearNumbers> made;
    for (const Reader& reader : readers.all) {
      OF_ASSIGN(LinearNumbers numbers, numbers_of(reader));
      OF_TRY(apply(affine, numbers));
      OF_ASSIGN(const bool fits, representable(numbers));
      if (!fits) {
        context.skipped(norm.last()->label(), "a weight with the gain in it is out of the range of its type");
        return false;
      }
      made.push_back(std::move(numbers));
    }
    OF_TRY(strip(graph, norm, affine));
    for (std::size_t i = 0; i < made.size(); ++i) {
      const Reader& reader = readers.all[i];
      if (reader.attention != nullptr) {
        OF_TRY(put_packed(graph, *reader.attention, made[i]));
      } else {
        OF_TRY(replace_linear(graph, *reader.linear, made[i], *reader.linear->product->input(0)));
      }
    }
    return true;
  }

  // Why folding would not pay; empty when it does.
  std::string objection(const Norm& norm, const Affine& affine, const std::vector<Reader>& readers) const {
    if (!norm.fused && !chains_) return "it is a chain, which runtimes fuse only with its gain (chains=true folds it)";
    std::int64_t nodes = 0, bytes = 0;
    for (const Reader& reader : readers) {
      if (reader.attention != nullptr) {
        const Value* weight = reader.attention->input(1);
        if (weight->uses().size() > 1) bytes += weight->constant()->nbytes();
        continue;
      }
      bytes += shared_bytes(*reader.linear);
      if (affine.bias && reader.linear->bias == nullptr && !reader.linear->product->is("Gemm")) ++nodes;
    }
    if (!norm.fused) nodes -= (norm.gain != nullptr ? 1 : 0) + (norm.bias != nullptr ? 1 : 0);
    if (nodes > max_extra_nodes_) return fmt::format("its readers have no bias: {} more nodes", nodes);
    if (bytes > max_growth_) return fmt::format("the weight is shared: a copy of it takes {} bytes", bytes);
    return {};
  }

  static Result<LinearNumbers> numbers_of(const Reader& reader) {
    if (reader.linear) return linear_numbers(*reader.linear);
    const Node& node = *reader.attention;
    const Tensor weight = *node.input(1)->constant();
    LinearNumbers numbers{weight.dims()[0], weight.dims()[1], weight.dtype(), {}, {}};
    numbers.weight = [weight]() -> Result<Matrix> {
      OF_ASSIGN(std::vector<double> data, to_doubles(weight));
      return Matrix(weight.dims()[0], weight.dims()[1], std::move(data));
    };
    if (node.input(2) != nullptr) {
      OF_ASSIGN(numbers.bias, to_doubles(*node.input(2)->constant()));
    }
    return numbers;
  }

  static Status apply(const Affine& affine, LinearNumbers& numbers) {
    if (affine.bias) {
      OF_ASSIGN(Numbers shift, row_times(*affine.bias, numbers.weight));
      if (numbers.bias) {
        for (std::size_t i = 0; i < shift.size(); ++i) shift[i] += (*numbers.bias)[i];
      }
      numbers.bias = std::move(shift);
    }
    if (affine.gain) numbers.weight = scaled_rows(std::move(numbers.weight), *affine.gain);
    return {};
  }

  static Status put_packed(Graph& graph, Node& node, const LinearNumbers& numbers) {
    OF_ASSIGN(Tensor weight, weight_tensor(numbers, node.input(1)->name()));
    drop_input(graph, node, 1, add_constant(graph, std::move(weight), node.input(1)->name()));
    if (!numbers.bias) return {};
    OF_ASSIGN(Tensor bias, from_doubles(numbers.dtype, {numbers.out}, *numbers.bias));
    const std::string hint = node.input(2) != nullptr ? node.input(2)->name() : node.output()->name() + "_bias";
    drop_input(graph, node, 2, add_constant(graph, std::move(bias), hint));
    return {};
  }

  static Status strip(Graph& graph, const Norm& norm, const Affine& affine) {
    if (!norm.fused) {
      if (norm.bias != nullptr) remove_step(graph, norm, "Add", norm.bias);
      if (norm.gain != nullptr) remove_step(graph, norm, "Mul", norm.gain);
      return {};
    }
    Node& node = *norm.nodes.front();
    const bool skips = norm.skip != nullptr;
    if (affine.gain) {
      const Tensor& old = *norm.gain->constant();
      const std::vector<double> ones(static_cast<std::size_t>(old.size()), 1.0);
      OF_ASSIGN(Tensor tensor, from_doubles(old.dtype(), old.dims(), ones));
      drop_input(graph, node, skips ? 2 : 1, add_constant(graph, std::move(tensor), norm.gain->name()));
    }
    if (affine.bias) drop_input(graph, node, skips ? 3 : 2, nullptr);
    return {};
  }

  std::int64_t max_extra_nodes_, max_growth_;
  bool chains_;
};

}  // namespace

std::unique_ptr<Pass> make_fold_norm_affine(const PassOptions& options) {
  return std::make_unique<FoldNormAffine>(options);
}

}  // namespace onnxfold
