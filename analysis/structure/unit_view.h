// UnitView: a graph seen as the units that hold its weights (norms, Linears, attentions, feed-forward layers,
// convolutions, embeddings) and what joins them, whatever exporters wrote in between.
//
// Moves of elements (Reshape, Transpose, Cast, ...) are looked through; sums of sums are one sum; scalar factors are
// one factor; integers (shapes, positions, ids) are known by the inputs that they come from. Types must have been
// inferred.
#pragma once

#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "analysis/structure/activation.h"
#include "analysis/structure/attention.h"
#include "analysis/structure/feed_forward.h"
#include "analysis/structure/norm.h"

namespace onnxfold {

struct Unit {
  enum class Kind {
    kInput,
    kIntegers,
    kConstant,
    kNorm,
    kLinear,
    kAttention,
    kFeedForward,
    kActivation,
    kScale,
    kSum,
    kNode
  };
  Kind kind = Kind::kNode;
  const Value* value = nullptr;        // what it makes, as the graph has it
  std::string text;                    // equal for units that correspond: "Linear 64 -> 192", "LayerNorm of 64", "Conv"
  std::vector<const Value*> operands;  // floating values (and positions of a Gather from a table)
  bool unordered = false;              // operands may stand in any order
  const Norm* norm = nullptr;          // the one that the kind says...
  const Linear* linear = nullptr;
  const Attention* attention = nullptr;
  const FeedForward* feed_forward = nullptr;
  const Node* node = nullptr;    // ...or the node
  double scale = 1;              // kScale
  Value* factor = nullptr;       // kScale: the constant that is multiplied, when it is a single one
  std::set<std::size_t> inputs;  // kIntegers: numbers of the model's inputs whose elements count
};

class UnitView {
 public:
  // `ordinals`: the number of every graph input. `feed_forwards` false: these are seen as their Linears.
  UnitView(const Graph& graph, std::map<const Value*, std::size_t> ordinals, bool feed_forwards);

  // The unit that makes `value`.
  const Unit& at(const Value* value);
  // Equal for values that are made alike from alike.
  std::uint64_t signature(const Value* value);
  // Does a mask or bias of scores hold weights of its own (relative positions)?
  bool holds_weights(const Value* value);
  // A key-value cache after an attention: said already by that.
  bool is_present(const Value* value) const { return presents_.count(value) != 0; }
  // What was not understood of attentions, for messages.
  const std::vector<StructureNote>& notes() const { return notes_; }

 private:
  const Value* behind_moves(const Value* value, double& scale, std::vector<Value*>& factors) const;
  bool known(const Value* value) const;
  Unit made(const Value* value);
  Unit of_attention(const Attention& attention);
  Unit of_feed_forward(const FeedForward& layer) const;
  Unit of_node(const Node& node);
  void add_addends(const Value* value, Unit& unit, bool first);
  Linear* ending(const Value* value);
  void take_late_biases(Unit& unit);
  std::set<std::size_t> inputs_behind(const Value* value) const;

  std::map<const Value*, std::size_t> ordinals_;
  std::vector<StructureNote> notes_;  // before what fills it
  std::vector<Norm> norms_;
  std::vector<Linear> linears_;
  std::vector<Attention> attentions_;
  std::vector<FeedForward> feed_forwards_;
  std::vector<ActivationMatch> activations_;
  std::unordered_map<const Value*, const Norm*> norm_of_, norm_of_sum_;
  std::unordered_map<const Value*, const Linear*> linear_of_;
  std::unordered_map<const Value*, const Attention*> attention_of_;
  std::unordered_map<const Value*, const FeedForward*> feed_forward_of_;
  std::unordered_map<const Value*, const ActivationMatch*> activation_of_;
  std::set<const Value*> presents_;
  std::set<std::pair<const Value*, const Linear*>> late_biases_;  // a constant may be the bias of several Linears
  std::unordered_map<const Value*, Unit> units_;                  // by the value asked for
  std::unordered_map<const Value*, std::uint64_t> signatures_;
  std::unordered_map<const Value*, bool> weighty_;
};

}  // namespace onnxfold
