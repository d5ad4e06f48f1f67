// Linear(Concat(phi(h[active]), h[idle]), C, c), h = Linear(x, A, b)
//   => Linear(phi(Linear(x, A_active, b_active)), C_active) + Linear(x, A_idle C_idle, b_idle C_idle + c)
//
// A feed-forward layer in which part of the hidden channels skips the activation (RePaViT, arXiv 2505.21847): the idle
// channels are a product of two matrices, which becomes one dense term; a residual of x then joins it
// (merge-linear-sum). The hidden channels are cut by Split or Slice and read by nothing else; only where the dense term
// takes fewer multiply-adds (in * out < in * idle + idle * out). In double, rounded once. M13 of the notes. Rounding.
#include <algorithm>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/linear/column_pieces.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

struct Match {
  Node* concat = nullptr;
  Linear up, down;
  std::vector<ColumnPiece> idle, active;  // of up's result
  std::vector<Value*> kept;               // operands of the Concat that stay
  std::vector<Stretch> idle_rows, kept_rows;
};

std::int64_t width_of(const Value& value) {
  const auto& shape = value.type().shape;
  return shape && !shape->empty() && shape->back().known() ? *shape->back().value : 0;
}

std::int64_t length(const std::vector<Stretch>& stretches) {
  std::int64_t sum = 0;
  for (const Stretch& stretch : stretches) sum += stretch.end - stretch.begin;
  return sum;
}

// The idle pieces of `up` among the Concat's operands.
bool place_operands(Match& match, const std::vector<ColumnPiece>& pieces) {
  std::int64_t row = 0;
  match.active = pieces;
  for (Value* operand : match.concat->inputs()) {
    const auto piece = std::find_if(match.active.begin(), match.active.end(),
                                    [operand](const ColumnPiece& each) { return each.value == operand; });
    const bool idle = piece != match.active.end() && sole_consumer(operand) == match.concat;
    const std::int64_t width = idle ? piece->columns.end - piece->columns.begin : width_of(*operand);
    if (width <= 0) return false;
    (idle ? match.idle_rows : match.kept_rows).push_back({row, row + width});
    row += width;
    if (idle) {
      match.idle.push_back(*piece);
      match.active.erase(piece);
    } else {
      match.kept.push_back(operand);
    }
  }
  return row == match.down.in && !match.idle.empty();
}

std::optional<Match> match_at(Node& concat, std::string& why) {
  const auto rank = concat.output()->rank();
  const std::int64_t axis = concat.attr_int("axis", 0);
  Node* reader = sole_consumer(concat.output());
  if (reader == nullptr || !rank || (axis != -1 && axis != *rank - 1)) return {};
  const auto down = linear_at(*reader);
  if (!down || down->input != concat.output()) return {};
  for (Value* operand : concat.inputs()) {
    const auto up = operand == nullptr ? std::nullopt : cut_linear(*operand);
    const auto pieces = up ? column_pieces(*up) : std::nullopt;
    if (!pieces) continue;
    Match match{&concat, *up, *down, {}, {}, {}, {}, {}};
    if (!place_operands(match, *pieces)) continue;
    const std::int64_t idle = length(match.idle_rows);
    if (up->in * down->out >= (up->in + down->out) * idle) {
      why = "one dense term would be more work than the idle channels";
      continue;
    }
    if (shared_bytes(*up) > 0 || shared_bytes(*down) > 0) {
      why = "the weights are shared";
      continue;
    }
    return match;
  }
  return {};
}

std::vector<Stretch> columns_of(const std::vector<ColumnPiece>& pieces) {
  std::vector<Stretch> stretches;
  stretches.reserve(pieces.size());
  for (const ColumnPiece& piece : pieces) stretches.push_back(piece.columns);
  return stretches;
}

class Rewrite {
 public:
  Rewrite(Graph& graph, const Match& match) : graph_(graph), match_(match) {}

  // Value: false when a number does not fit its type.
  Result<bool> run() {
    OF_ASSIGN(up_, linear_numbers(match_.up));
    OF_ASSIGN(down_, linear_numbers(match_.down));
    OF_ASSIGN(const LinearNumbers dense, dense_term());
    OF_ASSIGN(const bool fits, representable(dense));
    if (!fits) return false;
    if (!match_.active.empty()) OF_TRY(shrink_up());
    OF_ASSIGN(Value * result, insert(dense));
    replace_and_erase(graph_, *match_.down.output->producer(), *result);
    return true;
  }

 private:
  Result<LinearNumbers> dense_term() const {
    const std::vector<Stretch> columns = columns_of(match_.idle);
    const MatrixFn below = rows_of(down_.weight, match_.idle_rows);
    LinearNumbers dense{up_.in, down_.out, down_.dtype, {}, down_.bias};
    dense.weight = product(onnxfold::columns_of(up_.weight, columns), below);
    if (up_.bias) {
      OF_ASSIGN(Numbers shift, row_times(elements_of(*up_.bias, columns), below));
      for (std::size_t i = 0; dense.bias && i < shift.size(); ++i) shift[i] += (*dense.bias)[i];
      dense.bias = std::move(shift);
    }
    return dense;
  }

  // The first Linear with its active columns only.
  Status shrink_up() {
    const std::vector<Stretch> columns = columns_of(match_.active);
    LinearNumbers numbers{up_.in, length(columns), up_.dtype, onnxfold::columns_of(up_.weight, columns), {}};
    if (up_.bias) numbers.bias = elements_of(*up_.bias, columns);
    const Linear& up = match_.up;
    const bool one = match_.active.size() == 1;
    Type type = up.output->type();
    if (type.shape && !type.shape->empty()) type.shape->back() = Dim{numbers.out, "", ""};
    OF_ASSIGN(Value * made, insert_linear(graph_, numbers, *up.input, up.product->is("Gemm"),
                                          {up.output->name() + "_active", type}, names_of(up), up.product));
    if (one) {
      replace(*match_.active.front().value, *made);
      return {};
    }
    std::vector<std::int64_t> sizes;
    std::vector<OutputSpec> outputs;
    for (const ColumnPiece& piece : match_.active) {
      sizes.push_back(piece.columns.end - piece.columns.begin);
      outputs.push_back({piece.value->name(), piece.value->type()});
    }
    Node* split = insert_split(*made, sizes, std::move(outputs));
    for (std::size_t i = 0; i < match_.active.size(); ++i) {
      replace(*match_.active[i].value, *split->output(i));
    }
    return {};
  }

  void replace(Value& piece, Value& made) {
    graph_.replace_all_uses(piece, made);
    erase_if_unused(graph_, piece);
  }

  Node* insert_split(Value& value, const std::vector<std::int64_t>& sizes, std::vector<OutputSpec> outputs) {
    std::vector<Value*> inputs{&value};
    const bool attribute = graph_.opset() < 13;
    if (!attribute) {
      const auto count = static_cast<std::int64_t>(sizes.size());
      inputs.push_back(add_constant(graph_, Tensor::of<std::int64_t>({count}, sizes), value.name() + "_sizes"));
    }
    Node* split = graph_.insert({.op_type = "Split",
                                 .inputs = std::move(inputs),
                                 .outputs = std::move(outputs),
                                 .attributes = {},
                                 .domain = "",
                                 .name = ""},
                                match_.up.product);
    split->set_attribute("axis", std::int64_t{-1});
    if (attribute) split->set_attribute("split", sizes);
    return split;
  }

  // What stays of the second Linear, and the dense term.
  Result<Value*> insert(const LinearNumbers& dense) {
    const Linear& down = match_.down;
    const Node* before = down.output->producer();
    const OutputSpec output{down.output->name(), down.output->type()};
    LinearNames names{"", down.weight->name() + "_idle", names_of(down).bias};
    OF_ASSIGN(Value * whole,
              insert_linear(graph_, dense, *match_.up.input, match_.up.product->is("Gemm"), output, names, before));
    if (match_.kept.empty()) return whole;
    LinearNumbers rest{length(match_.kept_rows), down_.out, down_.dtype, rows_of(down_.weight, match_.kept_rows), {}};
    OF_ASSIGN(Value * part, insert_linear(graph_, rest, *kept_operand(before), down.product->is("Gemm"), output,
                                          names_of(down), before));
    Node* add = graph_.insert(
        {.op_type = "Add", .inputs = {part, whole}, .outputs = {output}, .attributes = {}, .domain = "", .name = ""},
        before);
    return add->output();
  }

  Value* kept_operand(const Node* before) {
    if (match_.kept.size() == 1) return match_.kept.front();
    Type type = match_.concat->output()->type();
    type.shape->back() = Dim{length(match_.kept_rows), "", ""};
    Node* concat = graph_.insert({.op_type = "Concat",
                                  .inputs = match_.kept,
                                  .outputs = {{match_.concat->output()->name(), type}},
                                  .attributes = {},
                                  .domain = "",
                                  .name = match_.concat->name},
                                 before);
    concat->set_attribute("axis", std::int64_t{-1});
    return concat->output();
  }

  Graph& graph_;
  const Match& match_;
  LinearNumbers up_, down_;
};

// Public names stay with what makes them: only inner pieces are replaced.
bool replaceable(const Match& match) {
  return std::none_of(match.active.begin(), match.active.end(),
                      [](const ColumnPiece& piece) { return piece.value->is_graph_output(); });
}

class FoldIdleChannels final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    if (graph.opset() < 11) return false;
    for (Node* node : graph.nodes_of("Concat")) {
      if (node->erased()) continue;
      std::string why;
      const std::string label = node->label();
      const auto match = match_at(*node, why);
      if (!match || !replaceable(*match)) {
        if (!why.empty()) context.skipped(label, why);
        continue;
      }
      OF_ASSIGN(const bool folded, Rewrite(graph, *match).run());
      if (!folded) context.skipped(label, "a merged number is out of the range of its type");
      changed = changed || folded;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fold_idle_channels(const PassOptions&) { return std::make_unique<FoldIdleChannels>(); }

}  // namespace onnxfold
