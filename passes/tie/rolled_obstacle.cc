// Why a run of equal blocks cannot be written as one node.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "ir/match.h"
#include "passes/tie/rolled_run.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kBytesOfNode = 40;  // what a node takes in a file, at least

// Operators that pick items know neither parts of bytes nor the small floating types.
bool can_be_picked(DType dtype) {
  const auto eight = packed_bytes(dtype, 8);
  return eight && *eight >= 8 && (is_float(dtype) ? *eight > 8 : true);
}

}  // namespace

std::string RolledRun::obstacle() const {
  for (const std::vector<Value*>& slot : repeat_.varying) {
    if (!can_be_picked(slot[0]->dtype())) {
      return "constants of type " + std::string(name(slot[0]->dtype())) +
             " cannot be picked by the turn (those of MatMulNBits can: convert-blockwise-form)";
    }
  }
  const std::int64_t twice = bytes_stored_twice();
  if (twice > kBytesOfNode * static_cast<std::int64_t>((repeat_.count() - 1) * repeat_.node_count())) {
    return fmt::format(
        "other nodes read {} bytes of the constants that would be joined, which would be stored twice (corrections of "
        "tied layers: tie-layers pad=true makes all layers equal)",
        twice);
  }
  for (const Repeat::Outside& outside : repeat_.outside) {
    for (std::size_t t = 0; t < outside.wanted.size(); ++t) {
      const Value* value =
          repeat_.blocks[t][static_cast<std::size_t>(outside.node)]->output(static_cast<std::size_t>(outside.output));
      if (outside.wanted[t] && !value->type().is_tensor()) return "'" + value->name() + "' is no tensor";
      const bool escapes = std::any_of(value->uses().begin(), value->uses().end(),
                                       [&](const Use& use) { return use.node == nullptr && use.graph != &graph_; });
      if (escapes) return "'" + value->name() + "' is handed out by a subgraph";
    }
  }
  return collected_obstacle();
}

// Of constants that differ from block to block and are read outside of the run too.
std::int64_t RolledRun::bytes_stored_twice() const {
  std::unordered_set<const Node*> own;
  for (const auto& block : repeat_.blocks) own.insert(block.begin(), block.end());
  std::unordered_set<const Value*> seen;
  std::int64_t total = 0;
  for (const auto& block : repeat_.blocks) {
    for (std::size_t k = 0; k < block.size(); ++k) {
      const std::vector<Value*>& read = operations_.operands(*block[k]);
      for (std::size_t i = 0; i < read.size(); ++i) {
        if (repeat_.operands[k][i].kind != BlockOperand::Kind::kVarying || constant(read[i]) == nullptr) continue;
        const bool stays = std::any_of(read[i]->uses().begin(), read[i]->uses().end(), [&](const Use& use) {
          return use.node == nullptr || (use.node->graph() == &graph_ && !own.contains(use.node));
        });
        if (stays && seen.insert(read[i]).second) total += constant(read[i])->nbytes();
      }
    }
  }
  return total;
}

// What is collected must have one shape in all turns.
std::string RolledRun::collected_obstacle() const {
  for (const Repeat::Outside& outside : repeat_.outside) {
    const auto k = static_cast<std::size_t>(outside.node), o = static_cast<std::size_t>(outside.output);
    const Value* first = repeat_.blocks[0][k]->output(o);
    for (const auto& block : repeat_.blocks) {
      const auto &a = first->type().shape, &b = block[k]->output(o)->type().shape;
      if (!a || !b) continue;
      for (std::size_t i = 0; i < a->size(); ++i) {
        const Dim &x = (*a)[i], &y = (*b)[i];
        const bool unknown = (!x.known() && x.symbol.empty()) || (!y.known() && y.symbol.empty());
        if (!unknown && !(x.known() && y.known()) && x.symbol != y.symbol) {
          return "'" + first->name() + "' may have another shape in other blocks";
        }
      }
    }
  }
  return {};
}

}  // namespace onnxfold
