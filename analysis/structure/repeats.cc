#include "analysis/structure/repeats.h"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_set>

#include "analysis/structure/repeat_match.h"
#include "analysis/structure/repeat_surroundings.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr std::size_t kPreviousTried = 64;  // nodes of the same kind before a block's end
constexpr double kSharedPattern = 0.5;      // joined blocks must leave less than this share of bytes that vary
constexpr std::int64_t kLeastWeights = 4;
constexpr std::size_t kLeastAlike = 2;  // nodes that must be alike to tell why they are no blocks
constexpr int kCostOfValue = 4;         // nodes that a carried or collected value must be worth

using Label = std::uint64_t;

Label mix(Label a, Label b) {
  a ^= b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2);
  a *= 0xbf58476d1ce4e5b9ULL;
  return a ^ (a >> 27);
}

// A label of what a node does and which constants it reads: ends of blocks that follow each other have equal ones.
std::unordered_map<const Node*, Label> labels_of(const Graph& graph, const Operations& operations) {
  std::unordered_map<const Node*, Label> labels;
  for (const Node* node : graph.nodes()) {
    Label label = static_cast<Label>(operations.of(*node) + 2);
    for (const Value* value : operations.operands(*node)) {
      Label operand = 1;
      if (const Tensor* tensor = constant(value)) {
        operand = mix(2, static_cast<Label>(tensor->dtype()));
        for (const std::int64_t dim : tensor->dims()) operand = mix(operand, static_cast<Label>(dim));
      }
      label = mix(label, operand);
    }
    labels[node] = label;
  }
  return labels;
}

std::int64_t bytes_of(const Value* value) {
  const Tensor* tensor = constant(value);
  return tensor == nullptr ? 0 : tensor->nbytes();
}

// Bytes of constants that would differ from turn to turn with `joined` blocks to a turn, per block.
double varying_bytes(const Repeat& repeat, std::size_t joined) {
  const std::size_t turns = repeat.count() / joined, first = repeat.count() - turns * joined;
  double total = 0;
  for (const std::vector<Value*>& slot : repeat.varying) {
    for (std::size_t j = 0; j < joined; ++j) {
      bool same = true;
      double bytes = 0;
      for (std::size_t t = first + j; t < repeat.count(); t += joined) {
        same = same && slot[t] == slot[first + j];
        bytes += static_cast<double>(bytes_of(slot[t]));
      }
      if (!same) total += bytes;
    }
  }
  return total / static_cast<double>(turns * joined);
}

// Does a block read weights? Runs of mere shape or index arithmetic are not worth a loop.
bool has_parameters(const Repeat& repeat) {
  const auto weight = [](const Value* value) {
    const Tensor* tensor = constant(value);
    return tensor != nullptr && tensor->size() >= kLeastWeights && tensor->dtype() != DType::kInt64 &&
           tensor->dtype() != DType::kInt32 && tensor->dtype() != DType::kBool;
  };
  return std::any_of(repeat.shared.begin(), repeat.shared.end(), weight) ||
         std::any_of(repeat.varying.begin(), repeat.varying.end(),
                     [&](const std::vector<Value*>& slot) { return weight(slot[0]); });
}

class Search {
 public:
  Search(const Graph& graph, const RepeatOptions& options)
      : graph_(graph),
        options_(options),
        operations_(graph),
        matcher_(graph, operations_, constants_),
        surroundings_(graph, operations_),
        labels_(labels_of(graph, operations_)) {}

  const NearRepeat& nearest() const { return nearest_; }

  std::vector<Repeat> run() {
    const std::vector<Node*> nodes = graph_.nodes();
    std::unordered_map<Label, std::vector<Node*>> alike;
    for (Node* node : nodes) alike[labels_.at(node)].push_back(node);
    std::vector<Repeat> found;
    std::unordered_set<const Node*> covered;
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
      if (operations_.of(**node) < 0 || covered.contains(*node)) continue;
      std::optional<Repeat> best = best_ending(**node, alike.at(labels_.at(*node)));
      if (!best) continue;
      best = rotated(std::move(*best));
      if (!best) continue;
      for (const auto& block : best->blocks) covered.insert(block.begin(), block.end());
      found.push_back(std::move(*best));
    }
    return chosen(std::move(found));
  }

 private:
  // Of the runs whose last block ends with `last`.
  std::optional<Repeat> best_ending(Node& last, const std::vector<Node*>& alike) {
    std::optional<Repeat> best;
    auto at = std::find(alike.begin(), alike.end(), &last);
    for (std::size_t tried = 0; at != alike.begin() && tried < kPreviousTried; ++tried) {
      Node& previous = **--at;
      keep_better(best, complete(last, previous));
    }
    return best;
  }

  std::optional<Repeat> complete(Node& last, Node& previous) {
    std::optional<Repeat> repeat = matcher_.match(last, previous);
    if (!repeat) return refused(last, matcher_.mismatch());
    if (!surroundings_.make_independent(*repeat)) return refused(last, all_read(surroundings_.dependence()));
    repeat->before = surroundings_.dependence().empty() ? matcher_.mismatch() : all_read(surroundings_.dependence());
    surroundings_.absorb(*repeat, constants_);
    if (!settle(*repeat, operations_)) return refused(last, "constants differ that cannot be joined along a new axis");
    surroundings_.list_outside(*repeat);
    return repeat;
  }

  static std::string all_read(const std::string& value) {
    return "all blocks read '" + value + "', which depends on the first of them";
  }

  std::nullopt_t refused(const Node& last, const std::string& reason) {
    if (reason.empty() || matcher_.alike() <= nearest_.alike || matcher_.alike() < kLeastAlike) {
      return std::nullopt;
    }
    nearest_ = {last.label(), reason, matcher_.alike()};
    return std::nullopt;
  }

  // A block may begin anywhere in the pattern: where it carries least.
  std::optional<Repeat> rotated(Repeat repeat) {
    std::optional<Repeat> best = repeat;
    const std::size_t count = repeat.count();
    for (std::size_t k = 0; k < repeat.node_count(); ++k) {
      keep_better(best, complete(*repeat.blocks[count - 1][k], *repeat.blocks[count - 2][k]));
    }
    return joined(std::move(*best));
  }

  // Several blocks to a turn, where constants repeat with that period.
  std::optional<Repeat> joined(Repeat repeat) {
    const double alone = varying_bytes(repeat, 1);
    for (std::size_t k = 2; 2 * k <= repeat.count(); ++k) {
      if (options_.blocks_in_body != 0 ? k != options_.blocks_in_body
                                       : varying_bytes(repeat, k) > kSharedPattern * alone || alone == 0) {
        continue;
      }
      const auto end = static_cast<std::size_t>(last_node(repeat));
      std::optional<Repeat> wide = complete(*repeat.blocks.back()[end], *repeat.blocks[repeat.count() - 1 - k][end]);
      if (wide && worthwhile(*wide)) return wide;
    }
    return repeat;
  }

  // The carried node that comes last in its block.
  static int last_node(const Repeat& repeat) {
    int last = 0;
    for (const Repeat::Carried& carried : repeat.carried) last = std::max(last, carried.node);
    return last;
  }

  static std::int64_t worth(const Repeat& repeat) {
    const auto values = static_cast<std::int64_t>(repeat.carried.size() + repeat.outside.size());
    return static_cast<std::int64_t>((repeat.count() - 1) * repeat.node_count()) - kCostOfValue * values;
  }

  // How many nodes a graph has less with the run in a loop: values of single blocks are joined and picked outside.
  static std::int64_t fewer_nodes(const Repeat& repeat) {
    auto count = static_cast<std::int64_t>((repeat.count() - 1) * repeat.node_count()) - 1;
    for (const Repeat::Outside& outside : repeat.outside) {
      count -= std::count(outside.wanted.begin(), outside.wanted.end(), true);
    }
    for (const std::vector<Value*>& slot : repeat.varying) {
      if (constant(slot[0]) == nullptr) count -= static_cast<std::int64_t>(repeat.count()) + 1;
    }
    return count;
  }

  bool worthwhile(const Repeat& repeat) const {
    return repeat.count() >= options_.least_blocks && fewer_nodes(repeat) > 0 && has_parameters(repeat) &&
           (repeat.count() - 1) * repeat.node_count() >= options_.least_saved_nodes;
  }

  void keep_better(std::optional<Repeat>& best, std::optional<Repeat> other) const {
    if (other && worthwhile(*other) && (!best || worth(*other) > worth(*best))) best = std::move(other);
  }

  static std::vector<Repeat> chosen(std::vector<Repeat> found) {
    std::stable_sort(found.begin(), found.end(), [](const Repeat& a, const Repeat& b) { return worth(a) > worth(b); });
    std::unordered_set<const Node*> taken;
    std::vector<Repeat> kept;
    for (Repeat& repeat : found) {
      bool free = true;
      for (const auto& block : repeat.blocks) {
        free = free && std::none_of(block.begin(), block.end(), [&](const Node* node) { return taken.contains(node); });
      }
      if (!free) continue;
      for (const auto& block : repeat.blocks) taken.insert(block.begin(), block.end());
      kept.push_back(std::move(repeat));
    }
    std::sort(kept.begin(), kept.end(), [](const Repeat& a, const Repeat& b) {
      const Node *x = a.blocks.back().back(), *y = b.blocks.back().back();
      return x != y && x->graph()->before(*x, *y);
    });
    return kept;
  }

  const Graph& graph_;
  const RepeatOptions options_;
  Operations operations_;
  ConstantClasses constants_;
  RepeatMatcher matcher_;
  RepeatSurroundings surroundings_;
  std::unordered_map<const Node*, Label> labels_;
  NearRepeat nearest_;
};

}  // namespace

std::vector<Repeat> find_repeats(const Graph& graph, const RepeatOptions& options, NearRepeat* nearest) {
  Search search(graph, options);
  std::vector<Repeat> found = search.run();
  if (nearest != nullptr) *nearest = search.nearest();
  return found;
}

}  // namespace onnxfold
