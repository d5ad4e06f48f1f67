// x + FFN1(N1(x)) + FFN2(N2(x)) => x + FFN(N(x)), the hidden widths added
// act(A1 x + A2 x) => act((A1 + A2) x), C1 h + C2 h => (C1 + C2) h   branches joined before the nonlinearity
//
// Feed-forward layers, plain or gated, with the same activation, whose results meet in a tree of Adds (any order, layer
// scale per branch) and that read the same value or norms of the same value with the same epsilon. Up (and gate) are
// put side by side, down is stacked; different gains and biases of the norms go into up and gate first, and one norm
// without them is left. Inner values must have no other readers. Linears of a joined layer are summed: those that read
// the same value and whose sum an activation reads, and those that read a joined hidden value. M6, M8 and M1 of the
// method notes (structural reparameterization, arXiv 2511.19718). Rounding.
#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/activation.h"
#include "analysis/structure/feed_forward.h"
#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/parallel/branch_input.h"
#include "passes/reparam/parallel/parallel_sum.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

// One branch of the sum.
struct Branch {
  SumTerm term;
  FeedForward layer;
  BranchInput input;
};

// A Linear's numbers with what is folded into them.
struct Affine {
  Matrix weight;
  Numbers bias;
  bool biased = false;
};

Result<Affine> affine_of(const Linear& linear, const Norm* fold) {
  Affine affine;
  OF_ASSIGN(affine.weight, weight_matrix(linear));
  OF_ASSIGN(affine.bias, bias_vector(linear));
  affine.biased = linear.bias != nullptr;
  if (fold != nullptr) {
    OF_TRY(fold_affine(*fold, affine.weight, affine.bias));
    affine.biased = affine.biased || fold->bias != nullptr;
  }
  return affine;
}

bool same_activation(const FeedForward& a, const FeedForward& b) {
  if (a.activation.has_value() != b.activation.has_value()) return false;
  if (!a.activation) return true;
  if (a.activation->kind != b.activation->kind) return false;
  // Slopes are attributes of the operators; chains have none.
  const Node &x = *a.activation->nodes.back(), &y = *b.activation->nodes.back();
  if (x.op_type() != y.op_type())
    return a.activation->kind != ActivationMatch::Kind::kElu && a.activation->kind != ActivationMatch::Kind::kLeakyRelu;
  return x.attr_float("alpha", -1) == y.attr_float("alpha", -1);
}

// The operators between up and down whose constants say nothing of the hidden width.
bool keeps_any_width(const FeedForward& layer) {
  const auto of_activation = [&](const Node* node) {
    return layer.activation && std::find(layer.activation->nodes.begin(), layer.activation->nodes.end(), node) !=
                                   layer.activation->nodes.end();
  };
  for (const Node* node : layer.nodes) {
    const bool linear =
        node == layer.up.product || node == layer.up.bias_add || node == layer.up.weight_transpose ||
        node == layer.down.product || node == layer.down.bias_add || node == layer.down.weight_transpose ||
        (layer.gate &&
         (node == layer.gate->product || node == layer.gate->bias_add || node == layer.gate->weight_transpose));
    if (linear || node == layer.product || of_activation(node)) continue;
    if (node->is("Split") && layer.packed()) continue;
    if (!node->is("Cast") && !node->is("Dropout") && !node->is("Identity")) return false;
  }
  return true;
}

// Gate and up are the halves of one Linear behind one Split of its last axis.
const Node* half_split(const FeedForward& layer) {
  const Node* found = nullptr;
  for (const Node* node : layer.nodes) {
    if (!node->is("Split")) continue;
    if (found != nullptr || node->outputs().size() != 2 || layer.up.out != 2 * layer.hidden) return nullptr;
    found = node;
  }
  return found;
}

std::string conflict(const Branch& a, const Branch& b) {
  if (std::string why = input_conflict(a.input, b.input); !why.empty()) return why;
  if (a.layer.gated() != b.layer.gated()) return "one is gated and the other is not";
  if (!same_activation(a.layer, b.layer)) return "its activation is another";
  if (a.layer.up.weight->dtype() != b.layer.up.weight->dtype()) return "its weights are of another type";
  if (a.layer.down.out != b.layer.down.out) return "its width is another";
  return {};
}

std::string unfit(const FeedForward& layer) {
  if (layer.inner_norm) return "a norm stands between up and down";
  if (layer.fused_bias != nullptr && !layer.fused_bias->is("BiasGelu", "com.microsoft") &&
      !layer.fused_bias->is("FastGelu", "com.microsoft"))
    return "its activation adds a bias";
  if (!closed(layer.nodes, layer.output)) return "an inner value is read elsewhere";
  return {};
}

// Writes numbers behind what the host has.
class WideLayer {
 public:
  explicit WideLayer(const Branch& host) : host_(host) {}

  Status add(const Branch& branch, bool fold) {
    const Norm* norm = fold ? &*branch.input.norm : nullptr;
    const FeedForward& layer = branch.layer;
    OF_ASSIGN(Affine up, affine_of(layer.up, norm));
    if (layer.fused_bias != nullptr) OF_TRY(add_fused_bias(layer, up));
    append(up_, up, layer.up_offset, layer.hidden);
    if (layer.gate) {
      OF_ASSIGN(const Affine gate, affine_of(*layer.gate, norm));
      append(gate_, gate, layer.gate_offset, layer.hidden);
    }
    return stack(branch);
  }

  Status write(Graph& graph) {
    const FeedForward& layer = host_.layer;
    widen_types();
    if (layer.packed()) {
      OF_TRY(replace(graph, layer.up, packed()));
      OF_TRY(rewrite_split(graph));
    } else {
      OF_TRY(write_up(graph));
      if (layer.gate) OF_TRY(replace(graph, *layer.gate, gate_));
    }
    return replace(graph, layer.down, down_);
  }

  std::int64_t hidden() const { return up_.weight.cols; }

 private:
  static Status add_fused_bias(const FeedForward& layer, Affine& up) {
    OF_ASSIGN(const Numbers bias, to_doubles(*layer.fused_bias->input(1)->constant()));
    for (std::size_t c = 0; c < up.bias.size(); ++c) up.bias[c] += bias[bias.size() == 1 ? 0 : c];
    up.biased = true;
    return {};
  }

  // Columns [offset, offset + count) to the right of what is there.
  static void append(Affine& to, const Affine& from, std::int64_t offset, std::int64_t count) {
    Matrix joined{from.weight.rows, to.weight.cols + count, {}};
    joined.data.resize(static_cast<std::size_t>(joined.rows * joined.cols));
    for (std::int64_t row = 0; row < joined.rows; ++row) {
      for (std::int64_t col = 0; col < to.weight.cols; ++col) joined.at(row, col) = to.weight.at(row, col);
      for (std::int64_t col = 0; col < count; ++col)
        joined.at(row, to.weight.cols + col) = from.weight.at(row, offset + col);
    }
    to.weight = std::move(joined);
    to.bias.insert(to.bias.end(), from.bias.begin() + offset, from.bias.begin() + offset + count);
    to.biased = to.biased || from.biased;
  }

  Status stack(const Branch& branch) {
    OF_ASSIGN(Affine down, affine_of(branch.layer.down, nullptr));
    OF_ASSIGN(const Numbers factor, factor_of(branch.term, branch.layer.down.out));
    for (std::int64_t row = 0; row < down.weight.rows; ++row) {
      for (std::int64_t col = 0; col < down.weight.cols; ++col)
        down.weight.at(row, col) *= factor[static_cast<std::size_t>(col)];
    }
    if (down_.bias.empty()) down_.bias.assign(factor.size(), 0.0);
    for (std::size_t c = 0; c < factor.size(); ++c) down_.bias[c] += factor[c] * down.bias[c];
    down_.biased = down_.biased || down.biased;
    down_.weight.rows += down.weight.rows;
    down_.weight.cols = down.weight.cols;
    down_.weight.data.insert(down_.weight.data.end(), down.weight.data.begin(), down.weight.data.end());
    return {};
  }

  static Status replace(Graph& graph, const Linear& linear, const Affine& affine) {
    OF_TRY(replace_linear(graph, linear, affine.weight, affine.biased ? &affine.bias : nullptr));
    return {};
  }

  // Gate and up in the order that the host has them.
  Affine packed() const {
    const bool up_first = host_.layer.up_offset == 0;
    Affine joined = up_first ? up_ : gate_;
    const Affine& second = up_first ? gate_ : up_;
    append(joined, second, 0, second.weight.cols);
    return joined;
  }

  Status rewrite_split(Graph& graph) {
    Node* split = const_cast<Node*>(half_split(host_.layer));
    const std::vector<std::int64_t> sizes = {hidden(), hidden()};
    if (split->attr_ints("split")) split->set_attribute("split", sizes);
    if (Value* old = split->input(1); old != nullptr) {
      graph.set_input(*split, 1, graph.add_initializer(old->name(), Tensor::of<std::int64_t>({2}, sizes)));
      erase_if_unused(graph, *old);
    }
    return {};
  }

  Status write_up(Graph& graph) {
    Node* fused = host_.layer.fused_bias;
    if (fused == nullptr) return replace(graph, host_.layer.up, up_);
    Affine weight = up_;
    weight.biased = false;
    OF_TRY(replace(graph, host_.layer.up, weight));
    Value* old = fused->input(1);
    OF_ASSIGN(Tensor bias, from_doubles(old->constant()->dtype(), {hidden()}, up_.bias));
    graph.set_input(*fused, 1, graph.add_initializer(old->name(), std::move(bias)));
    erase_if_unused(graph, *old);
    return {};
  }

  void widen_types() const {
    const FeedForward& layer = host_.layer;
    for (const Node* node : layer.nodes) {
      for (Value* output : node->outputs()) {
        if (output == nullptr || output == layer.output || output == layer.down.product->output()) continue;
        Type type = output->type();
        if (!type.shape || type.shape->empty() || !type.shape->back().known()) continue;
        const std::int64_t width = *type.shape->back().value;
        if (width != layer.hidden && width != layer.up.out) continue;
        type.shape->back() = Dim{width / layer.hidden * hidden(), "", ""};
        output->set_type(type);
      }
    }
  }

  const Branch& host_;
  Affine up_, gate_, down_;
};

class MergeParallelFfn final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    OF_ASSIGN(changed, merge_layers(graph, context));
    OF_ASSIGN(const bool joined, merge_joined(graph, context));
    return changed || joined;
  }

 private:
  static Result<bool> merge_layers(Graph& graph, PassContext& context) {
    const std::vector<FeedForward> layers = find_feed_forwards(graph);
    if (layers.size() < 2) return false;
    const BranchInputs inputs(graph);
    bool changed = false;
    for (const ParallelSum& sum : find_parallel_sums(graph)) {
      std::vector<Branch> branches;
      for (const SumTerm& term : sum.terms) {
        const auto layer = std::find_if(layers.begin(), layers.end(),
                                        [&](const FeedForward& each) { return each.output == term.branch; });
        if (layer == layers.end() || term.value->uses().size() != 1) continue;
        branches.push_back({term, *layer, inputs.of(layer->input)});
      }
      OF_ASSIGN(const bool here, merge(graph, context, branches));
      changed = changed || here;
    }
    return changed;
  }

  // Groups of branches that can share one layer; the first fit one of each takes the others in.
  static Result<bool> merge(Graph& graph, PassContext& context, std::vector<Branch>& branches) {
    bool changed = false;
    if (branches.size() < 2) return false;
    std::erase_if(branches, [&](const Branch& branch) {
      const std::string why = unfit(branch.layer);
      if (!why.empty()) context.skipped(branch.layer.down.product->label(), why);
      return !why.empty();
    });
    while (branches.size() > 1) {
      std::vector<Branch> group = {branches.front()}, rest;
      for (std::size_t i = 1; i < branches.size(); ++i) {
        const std::string why = conflict(group.front(), branches[i]);
        if (!why.empty()) context.skipped(branches[i].layer.down.product->label(), why);
        (why.empty() ? group : rest).push_back(branches[i]);
      }
      OF_ASSIGN(const bool here, merge_group(graph, context, group));
      changed = changed || here;
      branches = std::move(rest);
    }
    return changed;
  }

  static Result<bool> merge_group(Graph& graph, PassContext& context, std::vector<Branch>& group) {
    if (group.size() < 2) return false;
    const auto fit = std::find_if(group.begin(), group.end(), [](const Branch& branch) {
      return keeps_any_width(branch.layer) && (!branch.layer.packed() || half_split(branch.layer) != nullptr);
    });
    if (fit == group.end()) {
      context.skipped(group.front().layer.down.product->label(), "the hidden width stands in shapes");
      return false;
    }
    std::iter_swap(group.begin(), fit);
    const Branch& host = group.front();
    const bool fold = std::any_of(group.begin(), group.end(),
                                  [&](const Branch& branch) { return !same_input(host.input, branch.input); });
    WideLayer wide(host);
    for (const Branch& branch : group) OF_TRY(wide.add(branch, fold));
    if (fold) OF_TRY(read_plain_norm(graph, host));
    drop_factors(graph, host.term);
    OF_TRY(wide.write(graph));
    context.applied(host.layer.down.product->label(),
                    fmt::format("{} feed-forward layers side by side: hidden width {} to {}{}", group.size(),
                                host.layer.hidden, wide.hidden(), fold ? ", norms folded" : ""));
    for (std::size_t i = 1; i < group.size(); ++i) drop_term(graph, group[i].term);
    return true;
  }

  static Status read_plain_norm(Graph& graph, const Branch& host) {
    OF_ASSIGN(Value * plain, plain_norm(graph, *host.input.norm));
    graph.set_input(*host.layer.up.product, 0, plain);
    if (host.layer.gate) graph.set_input(*host.layer.gate->product, 0, plain);
    erase_if_unused(graph, *host.input.value);
    return {};
  }

  // ---- branches joined before the nonlinearity ----

  struct Addend {
    SumTerm term;
    Linear linear;
    BranchInput input;
  };

  static Result<bool> merge_joined(Graph& graph, PassContext& context) {
    const BranchInputs inputs(graph);
    const std::vector<ActivationMatch> activations = find_activations(graph);
    bool changed = false;
    for (const ParallelSum& sum : find_parallel_sums(graph)) {
      std::vector<Addend> addends;
      for (const SumTerm& term : sum.terms) {
        const auto linear = linear_making(term.branch);
        if (!linear || linear->output != term.branch || !closed(linear->nodes(), linear->output)) continue;
        if (term.value->uses().size() != 1 || !joined(*sum.root->output(), *linear->input, activations)) continue;
        addends.push_back({term, *linear, inputs.of(linear->input)});
      }
      OF_ASSIGN(const bool here, sum_linears(graph, context, addends));
      changed = changed || here;
    }
    return changed;
  }

  // Linears before the nonlinearity of a layer (the sum is what it reads, or what it gates) or after it.
  static bool joined(const Value& sum, const Value& input, const std::vector<ActivationMatch>& activations) {
    const Node* reader = sole_consumer(&sum);
    return (reader != nullptr && reader->is("Mul")) || (input.producer() != nullptr && input.producer()->is("Mul")) ||
           std::any_of(activations.begin(), activations.end(), [&](const ActivationMatch& activation) {
             return activation.input == &sum || activation.output == &input;
           });
  }

  static bool summable(const Addend& a, const Addend& b) {
    return a.linear.out == b.linear.out && a.linear.weight->dtype() == b.linear.weight->dtype() &&
           input_conflict(a.input, b.input).empty();
  }

  static Result<bool> sum_linears(Graph& graph, PassContext& context, std::vector<Addend>& addends) {
    bool changed = false;
    while (addends.size() > 1) {
      std::vector<Addend> group = {addends.front()}, rest;
      for (std::size_t i = 1; i < addends.size(); ++i) {
        (summable(group.front(), addends[i]) ? group : rest).push_back(addends[i]);
      }
      addends = std::move(rest);
      if (group.size() < 2) continue;
      OF_TRY(sum_group(graph, context, group));
      changed = true;
    }
    return changed;
  }

  static Status sum_group(Graph& graph, PassContext& context, const std::vector<Addend>& group) {
    const Addend& host = group.front();
    const bool fold = std::any_of(group.begin(), group.end(),
                                  [&](const Addend& addend) { return !same_input(host.input, addend.input); });
    Affine total;
    total.weight = {host.linear.in, host.linear.out,
                    Numbers(static_cast<std::size_t>(host.linear.in * host.linear.out))};
    total.bias.assign(static_cast<std::size_t>(host.linear.out), 0.0);
    for (const Addend& addend : group) {
      OF_ASSIGN(const Affine one, affine_of(addend.linear, fold ? &*addend.input.norm : nullptr));
      OF_ASSIGN(const Numbers factor, factor_of(addend.term, host.linear.out));
      for (std::size_t at = 0; at < total.weight.data.size(); ++at)
        total.weight.data[at] += factor[at % factor.size()] * one.weight.data[at];
      for (std::size_t c = 0; c < factor.size(); ++c) total.bias[c] += factor[c] * one.bias[c];
      total.biased = total.biased || one.biased;
    }
    if (fold) {
      OF_ASSIGN(Value * plain, plain_norm(graph, *host.input.norm));
      graph.set_input(*host.linear.product, 0, plain);
      erase_if_unused(graph, *host.input.value);
    }
    drop_factors(graph, host.term);
    OF_ASSIGN(const Linear merged,
              replace_linear(graph, host.linear, total.weight, total.biased ? &total.bias : nullptr));
    context.applied(merged.product->label(), fmt::format("the sum of {} Linears of one value", group.size()));
    for (std::size_t i = 1; i < group.size(); ++i) drop_term(graph, group[i].term);
    return {};
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_parallel_ffn(const PassOptions&) { return std::make_unique<MergeParallelFfn>(); }

}  // namespace onnxfold
