#include "passes/merge/respell.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/structure/correspondence.h"
#include "analysis/structure/unit_view.h"
#include "ir/match.h"
#include "passes/merge/alignment.h"
#include "passes/merge/respelled_weights.h"

namespace onnxfold {
namespace {

using Ordinals = std::map<const Value*, std::size_t>;

std::vector<const Value*> data_inputs(const Graph& graph) {
  std::vector<const Value*> inputs;
  for (const Value* input : graph.inputs()) {
    if (parameter(input) == nullptr) inputs.push_back(input);
  }
  return inputs;
}

// Inputs correspond by name where all names agree, else by place.
std::pair<Ordinals, Ordinals> number_inputs(const Graph& model, const Graph& anchor) {
  const auto a = data_inputs(model), b = data_inputs(anchor);
  Ordinals first, second;
  for (std::size_t i = 0; i < b.size(); ++i) second[b[i]] = i;
  bool named = a.size() == b.size();
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto same = std::find_if(b.begin(), b.end(), [&](const Value* v) { return v->name() == a[i]->name(); });
    named = named && same != b.end();
    if (named) first[a[i]] = static_cast<std::size_t>(same - b.begin());
  }
  for (std::size_t i = 0; i < a.size() && !named; ++i) first[a[i]] = i;
  return {first, second};
}

class Walk {
 public:
  Walk(const Graph& model, const Graph& anchor, bool feed_forwards)
      : model_(model),
        anchor_(anchor),
        numbers_(number_inputs(model, anchor)),
        first_(model, numbers_.first, feed_forwards),
        second_(anchor, numbers_.second, feed_forwards) {}

  Result<RespelledWeights> run() {
    OF_TRY(pair_outputs());
    while (!pending_.empty()) {
      const Pair pair = pending_.back();
      pending_.pop_back();
      if (done_.insert({pair.a, pair.b}).second) OF_TRY(match(pair));
    }
    OF_TRY(weights_.finish());
    return std::move(weights_);
  }

 private:
  struct Pair {
    const Value* a;
    const Value* b;
    bool mask;  // of scores: only what holds weights counts
  };

  Status differ(const Unit& a, const Unit& b, const std::string& how) const {
    std::string text = fmt::format("the models do not correspond: {} against {}: {}", described(a), described(b), how);
    for (const auto* notes : {&first_.notes(), &second_.notes()}) {
      const bool attention = a.kind == Unit::Kind::kAttention || b.kind == Unit::Kind::kAttention;
      if (!attention || notes->empty()) continue;
      text +=
          fmt::format(" (the attention at '{}' was not understood: {})", notes->front().node, notes->front().reason);
      break;
    }
    return fail(Code::kInvalidArgument, std::move(text));
  }
  static std::string described(const Unit& unit) {
    const Node* maker = unit.value == nullptr ? nullptr : unit.value->producer();
    return fmt::format("{} '{}'", unit.text, maker != nullptr ? maker->label() : unit.value->name());
  }

  Status pair_outputs() {
    const auto& a = model_.outputs();
    const auto& b = anchor_.outputs();
    if (a.size() != b.size()) {
      return fail(Code::kInvalidArgument,
                  fmt::format("the models do not correspond: {} and {} outputs", a.size(), b.size()));
    }
    for (std::size_t i = 0; i < b.size(); ++i) {
      const auto same = std::find_if(a.begin(), a.end(), [&](const Value* v) { return v->name() == b[i]->name(); });
      const Value* first = same != a.end() ? *same : a[i];
      if (!first_.is_present(first) && !second_.is_present(b[i])) pending_.push_back({first, b[i], false});
    }
    return {};
  }

  Status match(const Pair& pair) {
    const Unit& a = first_.at(pair.mask ? weights_of_mask(first_, pair.a) : pair.a);
    const Unit& b = second_.at(pair.mask ? weights_of_mask(second_, pair.b) : pair.b);
    if (a.kind != b.kind) return differ(a, b, "they are of different kinds");
    if (a.inputs != b.inputs) return differ(a, b, "they come from different inputs");
    if (a.kind == Unit::Kind::kConstant) return match_constants(a, b);
    if (a.kind == Unit::Kind::kScale) OF_TRY(match_factors(a, b));
    const bool counted = a.kind == Unit::Kind::kSum;  // of which the operands are counted below
    if (a.text != b.text && !(counted && pair.mask)) return differ(a, b, "they differ");
    OF_TRY(take(a, b));
    std::vector<const Value*> x = a.operands, y = b.operands;
    if (pair.mask) {
      std::erase_if(x, [&](const Value* value) { return !counts_in_mask(first_, value); });
      std::erase_if(y, [&](const Value* value) { return !counts_in_mask(second_, value); });
    }
    const std::size_t plain = a.kind == Unit::Kind::kAttention ? 3 + (b.attention->gate != nullptr ? 1 : 0) : x.size();
    // Masks are spelled in many ways; whether they do the same is seen when both models run.
    if (a.kind == Unit::Kind::kAttention && x.size() != y.size() && std::min(x.size(), y.size()) >= plain) {
      x.resize(plain);
      y.resize(plain);
    }
    if (x.size() != y.size()) return differ(a, b, fmt::format("{} and {} operands", x.size(), y.size()));
    if (b.unordered) x = in_order(x, y);
    for (std::size_t i = 0; i < y.size(); ++i) {
      const bool mask = pair.mask || i >= plain;
      pending_.push_back({x[i], y[i], mask});
    }
    return {};
  }
  // Behind what joins a learnt bias of scores with masks.
  static const Value* weights_of_mask(UnitView& view, const Value* value) {
    while (true) {
      const Unit& unit = view.at(value);
      const bool joins = unit.kind == Unit::Kind::kSum || (unit.kind == Unit::Kind::kNode && unit.text == "Where");
      if (!joins) return value;
      const Value* only = nullptr;
      int count = 0;
      for (const Value* operand : unit.operands) {
        if (!view.holds_weights(operand)) continue;
        only = operand;
        ++count;
      }
      if (count != 1) return value;
      value = only;
    }
  }
  static bool counts_in_mask(UnitView& view, const Value* value) {
    const Tensor* tensor = parameter(value);
    return tensor != nullptr ? tensor->rank() >= 2
                             : view.at(value).kind == Unit::Kind::kIntegers || view.holds_weights(value);
  }

  // Operands of the model in the order of the anchor's: those made alike from alike first, then those of one kind.
  std::vector<const Value*> in_order(const std::vector<const Value*>& x, const std::vector<const Value*>& y) {
    std::vector<const Value*> order(y.size(), nullptr);
    std::vector<char> used(x.size(), 0);
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < y.size(); ++i) {
        for (std::size_t j = 0; j < x.size() && order[i] == nullptr; ++j) {
          const bool alike = round == 0   ? first_.signature(x[j]) == second_.signature(y[i])
                             : round == 1 ? first_.at(x[j]).text == second_.at(y[i]).text
                                          : true;
          if (used[j] != 0 || !alike) continue;
          order[i] = x[j];
          used[j] = 1;
        }
      }
    }
    return order;
  }

  Status match_factors(const Unit& a, const Unit& b) {
    if (std::abs(a.scale - b.scale) <= 1e-5 * std::abs(b.scale)) return {};
    if (a.factor == nullptr || b.factor == nullptr) {
      return differ(a, b, fmt::format("they multiply by {} and {}", a.scale, b.scale));
    }
    return weights_.take_constant(*a.factor, *b.factor, b.value->producer());
  }

  Status match_constants(const Unit& a, const Unit& b) {
    if (a.text != b.text) return differ(a, b, "their shapes differ");
    return weights_.take_constant(*a.value, *b.value, nullptr);
  }

  Status take(const Unit& a, const Unit& b) {
    switch (b.kind) {
      case Unit::Kind::kNorm:
        return weights_.take_norm(*a.norm, *b.norm);
      case Unit::Kind::kLinear:
        return weights_.take_linear(*a.linear, *b.linear);
      case Unit::Kind::kAttention:
        return weights_.take_attention(*a.attention, *b.attention);
      case Unit::Kind::kFeedForward:
        return weights_.take_feed_forward(*a.feed_forward, *b.feed_forward);
      case Unit::Kind::kNode:
        return match_nodes(a, b);
      default:
        return {};
    }
  }
  // What changes the function and stands in no operand.
  Status match_nodes(const Unit& a, const Unit& b) const {
    if (a.node == nullptr || b.node == nullptr) return {};
    for (const char* name : {"group", "strides", "dilations", "kernel_shape"}) {
      const auto x = a.node->attr_ints(name), y = b.node->attr_ints(name);
      if (x && y && *x != *y) return differ(a, b, fmt::format("attribute {} differs", name));
    }
    if (a.node->attr_int("group", 1) != b.node->attr_int("group", 1)) return differ(a, b, "attribute group differs");
    return {};
  }

  const Graph& model_;
  const Graph& anchor_;
  std::pair<Ordinals, Ordinals> numbers_;
  UnitView first_, second_;
  RespelledWeights weights_;
  std::vector<Pair> pending_;
  std::set<std::pair<const Value*, const Value*>> done_;
};

}  // namespace

Result<std::unique_ptr<Model>> respelled(const Model& model, const Model& anchor) {
  Error error{Code::kInvalidArgument, ""};
  for (const bool feed_forwards : {true, false}) {
    std::unique_ptr<Model> result = anchor.clone();
    unshare_vectors(result->graph());
    auto weights = Walk(model.graph(), result->graph(), feed_forwards).run();
    if (weights) {
      OF_TRY(weights->write(result->graph()));
      return result;
    }
    if (feed_forwards || error.message.empty()) error = weights.error();
  }
  return fail(std::move(error));
}

}  // namespace onnxfold
