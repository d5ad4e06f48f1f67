// Linear(x, W1, b1), Linear(x, W2, b2), .. => Split(Linear(x, [W1 W2 ..], [b1 b2 ..]))
//
// Linears of one value become one of all their columns: queries, keys and values, gate and up, heads on one trunk.
// Results may have any readers; they come out of the Split in the order of the products. Only where nodes become fewer
// (two MatMul and Add, three Gemm); weights are joined as they are. Quantized and computed weights stay. The Split
// copies its input: with few rows that costs less than the products save, with many it costs more (measured in ONNX
// Runtime 1.32, one thread, width 384: 0.97 of the time at 8 rows, 1.02 at 64), hence max-rows. M3 of the notes; others
// call it QKV packing or CombineParallelDense. Same numbers, but a product may sum a wider matrix in another order:
// rounding.
#include <fmt/format.h>

#include <algorithm>

#include "passes/pass.h"
#include "passes/reparam/linear/linear_numbers.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Group = std::vector<Linear>;

// Of one input and one spelling each, in the order of their first products.
std::vector<Group> groups_of(const Graph& graph) {
  std::vector<Group> groups;
  for (const Linear& linear : find_linears(graph)) {
    const auto same = [&](const Group& group) {
      const Linear& first = group.front();
      return first.input == linear.input && first.product->is("Gemm") == linear.product->is("Gemm") &&
             first.weight->constant()->dtype() == linear.weight->constant()->dtype();
    };
    const auto found = std::find_if(groups.begin(), groups.end(), same);
    if (found == groups.end()) {
      groups.push_back({linear});
    } else {
      found->push_back(linear);
    }
  }
  return groups;
}

bool gains(const Group& group) {
  std::size_t nodes = 0;
  bool bias = false;
  for (const Linear& linear : group) {
    nodes += linear.bias_add != nullptr ? 2 : 1;
    bias = bias || linear.bias_add != nullptr;
  }
  return group.size() > 1 && (bias ? 3U : 2U) < nodes;
}

// Rows for each element of the batch (the first axis counts when its length is known); nullopt when not known.
std::optional<std::int64_t> rows_of(const Value& input) {
  const auto& shape = input.type().shape;
  if (!shape) return {};
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape->size(); ++i) {
    const Dim& dim = (*shape)[i];
    if (!dim.known() && i > 0) return {};
    if (dim.known()) rows *= *dim.value;
  }
  return rows;
}

Type type_of(const Value& like, std::int64_t width) {
  Type type = like.type();
  if (type.shape && !type.shape->empty()) type.shape->back() = Dim{width, "", ""};
  return type;
}

class MergeParallelLinears final : public Pass {
 public:
  explicit MergeParallelLinears(const PassOptions& options)
      : max_growth_(options.integer("max-growth")), max_rows_(options.integer("max-rows")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    for (const Group& group : groups_of(graph)) {
      if (!gains(group)) continue;
      const auto rows = rows_of(*group.front().input);
      if (max_rows_ > 0 && (!rows || *rows > max_rows_)) {
        context.skipped(group.front().product->label(),
                        rows ? fmt::format("{} rows: the Split would cost more than is saved", *rows)
                             : "the number of rows is not known: the Split may cost more than is saved");
        continue;
      }
      std::int64_t shared = 0;
      for (const Linear& linear : group) shared += shared_bytes(linear);
      if (shared > max_growth_) {
        context.skipped(group.front().product->label(),
                        fmt::format("the weights are shared: joining copies {} bytes", shared));
        continue;
      }
      OF_TRY(merge(graph, group));
      changed = true;
    }
    return changed;
  }

 private:
  static Result<LinearNumbers> joined(const Group& group) {
    LinearNumbers all{group.front().in, 0, group.front().weight->constant()->dtype(), {}, {}};
    std::vector<MatrixFn> parts;
    Numbers bias;
    bool any = false;
    for (const Linear& linear : group) {
      OF_ASSIGN(LinearNumbers numbers, linear_numbers(linear));
      any = any || numbers.bias;
      if (!numbers.bias) numbers.bias = Numbers(static_cast<std::size_t>(linear.out), 0.0);
      bias.insert(bias.end(), numbers.bias->begin(), numbers.bias->end());
      parts.push_back(std::move(numbers.weight));
      all.out += linear.out;
    }
    all.weight = beside(std::move(parts));
    if (any) all.bias = std::move(bias);
    return all;
  }

  static Status merge(Graph& graph, const Group& group) {
    OF_ASSIGN(const LinearNumbers all, joined(group));
    const Linear& first = group.front();
    const Node* before = first.product;
    LinearNames names = names_of(first);
    names.weight += "_joined";
    names.bias += "_joined";
    const OutputSpec output{first.output->name() + "_joined", type_of(*first.output, all.out)};
    OF_ASSIGN(Value * product,
              insert_linear(graph, all, *first.input, first.product->is("Gemm"), output, names, before));
    Node* split = insert_split(graph, *product, group, before);
    for (std::size_t i = 0; i < group.size(); ++i) {
      replace_and_erase(graph, *group[i].output->producer(), *split->output(i));
    }
    return {};
  }

  static Node* insert_split(Graph& graph, Value& product, const Group& group, const Node* before) {
    std::vector<std::int64_t> sizes;
    std::vector<OutputSpec> outputs;
    for (const Linear& linear : group) {
      sizes.push_back(linear.out);
      outputs.push_back({linear.output->name(), linear.output->type()});
    }
    std::vector<Value*> inputs{&product};
    const bool attribute = graph.opset() < 13;
    if (!attribute) {
      const auto count = static_cast<std::int64_t>(sizes.size());
      inputs.push_back(add_constant(graph, Tensor::of<std::int64_t>({count}, sizes), product.name() + "_sizes"));
    }
    Node* split = graph.insert({.op_type = "Split",
                                .inputs = std::move(inputs),
                                .outputs = std::move(outputs),
                                .attributes = {},
                                .domain = "",
                                .name = ""},
                               before);
    split->set_attribute("axis", std::int64_t{-1});
    if (attribute) split->set_attribute("split", sizes);
    return split;
  }

  std::int64_t max_growth_, max_rows_;
};

}  // namespace

std::unique_ptr<Pass> make_merge_parallel_linears(const PassOptions& options) {
  return std::make_unique<MergeParallelLinears>(options);
}

}  // namespace onnxfold
