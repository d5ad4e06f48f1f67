#include "analysis/structure/blocks.h"

#include <algorithm>
#include <array>
#include <set>

#include "analysis/structure/activation.h"
#include "analysis/structure/region.h"
#include "analysis/structure/residual.h"
#include "analysis/structure/sublayers.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

// A residual with its sublayers, or one that was left out.
struct Stage {
  Residual residual;
  std::vector<Sublayer> sublayers;
  bool dropped = false;
  int next = -1;
};

char letter(const Sublayer& sublayer) {
  switch (sublayer.kind) {
    case Sublayer::Kind::kAttention:
      return sublayer.cross ? 'X' : 'A';
    case Sublayer::Kind::kFeedForward:
    case Sublayer::Kind::kMixture:
      return 'F';
    case Sublayer::Kind::kConvolution:
      return sublayer.norm ? 'c' : 'C';  // with a norm of its own it is a part of a transformer block
    default:
      return '?';
  }
}

std::string letters(const Stage& stage) {
  std::string text;
  for (const Sublayer& sublayer : stage.sublayers) text += letter(sublayer);
  return text;
}

bool has(const std::vector<const Stage*>& group, char wanted) {
  return std::any_of(group.begin(), group.end(),
                     [&](const Stage* stage) { return letters(*stage).find(wanted) != std::string::npos; });
}

// The number of stages after which their kinds repeat; 0 when they do not.
std::size_t period(const std::vector<std::string>& kinds) {
  for (std::size_t length = 1; length <= kinds.size() / 2; ++length) {
    if (kinds.size() % length != 0) continue;
    bool repeats = true;
    for (std::size_t i = 0; i + length < kinds.size() && repeats; ++i) repeats = kinds[i] == kinds[i + length];
    if (repeats) return length;
  }
  return 0;
}

// Without a period: a block ends with its feed-forward layer.
bool begins_block(const std::vector<const Stage*>& group, const Stage& stage) {
  const std::string kinds = letters(stage);
  if (group.empty() || kinds.find('C') != std::string::npos) return true;
  if (kinds.find_first_of("A?") == std::string::npos) return group.size() == 1 && letters(*group[0]) == "C";
  if (has(group, 'F') || has(group, 'C') || has(group, '?')) return true;
  return stage.residual.reads != group.back()->residual.reads;
}

std::vector<std::vector<const Stage*>> group_stages(const std::vector<const Stage*>& stream) {
  std::vector<std::string> kinds;
  for (const Stage* stage : stream) kinds.push_back(letters(*stage));
  const std::size_t length = period(kinds);
  std::vector<std::vector<const Stage*>> groups;
  for (std::size_t i = 0; i < stream.size(); ++i) {
    const bool begins = length > 0 ? i % length == 0 : groups.empty() || begins_block(groups.back(), *stream[i]);
    if (begins) groups.emplace_back();
    groups.back().push_back(stream[i]);
  }
  return groups;
}

class BlockFinder {
 public:
  explicit BlockFinder(const Graph& graph) : graph_(graph), parts_(graph) {}

  BlockView run() {
    for (Residual& residual : ResidualFinder(graph_, parts_.inner).run()) stages_.push_back({std::move(residual), {}});
    settle_nesting();
    for (Stage& stage : stages_) {
      if (!stage.dropped) stage.sublayers = sublayers_of(stage.residual, parts_);
    }
    link();
    std::size_t stream = 0;
    for (const Stage& first : stages_) {
      if (first.dropped || before_[&first - stages_.data()] >= 0) continue;
      add_stream(first, stream++);
    }
    std::stable_sort(view_.blocks.begin(), view_.blocks.end(), [&](const Block& a, const Block& b) {
      const Node *x = a.sublayers.back().add, *y = b.sublayers.back().add;
      return x != y && graph_.before(*x, *y);
    });
    take_leftovers();
    return std::move(view_);
  }

 private:
  void note(const Node& node, std::string reason) { view_.notes.push_back({node.label(), std::move(reason)}); }

  // A residual around one other absorbs it; a residual around several is a long skip and no block.
  void settle_nesting() {
    for (Stage& outer : stages_) {
      std::vector<Stage*> within;
      for (Stage& inner : stages_) {
        if (&inner != &outer && !inner.dropped && outer.residual.branch.count(inner.residual.add) != 0) {
          within.push_back(&inner);
        }
      }
      if (within.size() == 1) within.front()->dropped = true;
      if (within.size() > 1) {
        outer.dropped = true;
        note(*outer.residual.add, "a skip around " + std::to_string(within.size()) + " residual branches");
      }
    }
  }

  // Every stage follows the one that its stream comes from; the first to claim it stands in the same stream.
  void link() {
    before_.assign(stages_.size(), -1);
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (stages_[i].dropped) continue;
      const int before = stages_[i].residual.before;
      if (before < 0 || stages_[static_cast<std::size_t>(before)].dropped) continue;
      Stage& previous = stages_[static_cast<std::size_t>(before)];
      if (previous.next >= 0) continue;
      previous.next = static_cast<int>(i);
      before_[i] = before;
    }
  }

  void add_stream(const Stage& first, std::size_t index) {
    std::vector<const Stage*> stream = {&first};
    while (stream.back()->next >= 0) stream.push_back(&stages_[static_cast<std::size_t>(stream.back()->next)]);
    for (const auto& group : group_stages(stream)) add_block(group, index);
  }

  void add_block(const std::vector<const Stage*>& group, std::size_t stream) {
    Block block;
    block.stream = stream;
    block.input = group.front()->residual.stream;
    for (const Stage* stage : group) {
      block.sublayers.insert(block.sublayers.end(), stage->sublayers.begin(), stage->sublayers.end());
      block.nodes.insert(block.nodes.end(), stage->residual.branch.begin(), stage->residual.branch.end());
      block.nodes.push_back(stage->residual.add);
    }
    set_output(block, *group.back());
    set_kind(block, group);
    set_width(block);
    collect_nodes(block, group);
    describe_unknown(block);
    view_.blocks.push_back(std::move(block));
  }

  // The norm or activation that alone reads the sum of a stage, if the stream goes on behind it.
  Value* behind_sum(const Stage& stage, Block* block) const {
    Value* sum = stage.residual.sum;
    const Stage* next = stage.next >= 0 ? &stages_[static_cast<std::size_t>(stage.next)] : nullptr;
    const bool pre_norm = std::any_of(stage.sublayers.begin(), stage.sublayers.end(),
                                      [](const Sublayer& sublayer) { return sublayer.norm.has_value(); });
    Node* add = stage.residual.add;
    if (!add->is("Add")) {  // SkipLayerNormalization
      const bool goes_on = next != nullptr ? next->residual.stream == add->output()
                                           : earlier_ends_with_norm(stage).value_or(!pre_norm) && sum == nullptr;
      if (!goes_on) return sum;
      const auto norm = parts_.norm_of_output.find(add->output());
      if (block != nullptr && norm != parts_.norm_of_output.end()) block->final_norm = *norm->second;
      return add->output();
    }
    const auto norm = parts_.norm_of_input.find(sum);
    if (norm != parts_.norm_of_input.end()) {
      const bool goes_on =
          next != nullptr ? next->residual.stream == norm->second->output
                          : earlier_ends_with_norm(stage).value_or(!pre_norm) && only_reader(*sum, norm->second->nodes);
      if (!goes_on) return sum;
      if (block != nullptr) block->final_norm = *norm->second;
      return norm->second->output;
    }
    Node* reader = data_reader(sum);
    const auto activation = reader == nullptr ? std::nullopt : activation_making(reader->output());
    if (activation && activation->input == sum && (next == nullptr || next->residual.stream == activation->output)) {
      return activation->output;
    }
    return sum;
  }

  // Did the stage like this one, a block before, end with a norm? The head's norm behind the last block is none of its
  // own, unless the blocks before have one too. Nullopt when there is no such stage.
  std::optional<bool> earlier_ends_with_norm(const Stage& stage) const {
    const std::string kinds = letters(stage);
    for (int at = stage.residual.before; at >= 0; at = stages_[static_cast<std::size_t>(at)].residual.before) {
      const Stage& earlier = stages_[static_cast<std::size_t>(at)];
      if (letters(earlier) == kinds) return is_norm_output(behind_sum(earlier, nullptr), earlier);
    }
    return {};
  }

  static bool only_reader(const Value& value, const std::vector<Node*>& nodes) {
    return std::all_of(value.uses().begin(), value.uses().end(), [&](const Use& use) {
      return use.node != nullptr && std::find(nodes.begin(), nodes.end(), use.node) != nodes.end();
    });
  }

  void set_output(Block& block, const Stage& last) {
    block.output = behind_sum(last, &block);
    if (block.output == nullptr) note(*last.residual.add, "the stream after it is not kept, only its norm");
  }

  void set_kind(Block& block, const std::vector<const Stage*>& group) const {
    bool norms = false, post = false, branch_norms = true, side_by_side = false, layers = false, convolution = false;
    for (std::size_t i = 0; i < block.sublayers.size(); ++i) {
      const Sublayer& sublayer = block.sublayers[i];
      norms = norms || sublayer.norm.has_value();
      branch_norms = branch_norms && sublayer.post_norm.has_value();
      convolution = convolution || sublayer.kind == Sublayer::Kind::kConvolution;
      layers = layers || sublayer.attention || sublayer.feed_forward || sublayer.mixture;
      side_by_side = side_by_side || (i > 0 && block.sublayers[i - 1].reads == sublayer.reads);
    }
    for (const Stage* stage : group) post = post || is_norm_output(behind_sum(*stage, nullptr), *stage);
    block.kind = !layers        ? (convolution ? Block::Kind::kConvolution : Block::Kind::kOther)
                 : side_by_side ? Block::Kind::kParallel
                 : post         ? Block::Kind::kPostNorm
                 : branch_norms ? (norms ? Block::Kind::kSandwich : Block::Kind::kBranchNorm)
                 : norms        ? Block::Kind::kPreNorm
                                : Block::Kind::kOther;
  }

  bool is_norm_output(const Value* value, const Stage& stage) const {
    return value != nullptr && value != stage.residual.sum && parts_.norm_of_output.count(value) != 0;
  }

  // What the last convolution makes.
  static void set_channels(Block& block) {
    for (const Node* node : block.sublayers.back().nodes) {
      const Tensor* weight = node->op_type().ends_with("Conv") ? constant(node->input(1)) : nullptr;
      if (weight != nullptr && weight->rank() > 2) block.width = weight->dims()[0];
    }
  }

  static void set_width(Block& block) {
    for (const Sublayer& sublayer : block.sublayers) {
      if (sublayer.feed_forward) block.width = sublayer.feed_forward->down.out;
      if (sublayer.attention && sublayer.attention->out) block.width = sublayer.attention->out->out;
    }
    for (const Sublayer& sublayer : block.sublayers) {
      if (block.width == 0 && sublayer.norm) block.width = sublayer.norm->width;
    }
    if (block.kind == Block::Kind::kConvolution) set_channels(block);
    const Value* stream = block.input;
    if (block.width != 0 || stream == nullptr || !stream->rank() || *stream->rank() < 2) return;
    const auto& dims = *stream->type().shape;
    const Dim& dim = block.kind == Block::Kind::kConvolution ? dims[1] : dims.back();
    if (dim.known()) block.width = *dim.value;
  }

  // Norms and activations between the stages, and all that serves nothing outside.
  void collect_nodes(Block& block, const std::vector<const Stage*>& group) const {
    for (const Stage* stage : group) {
      Value* after = behind_sum(*stage, nullptr);
      const auto norm = after == nullptr ? parts_.norm_of_output.end() : parts_.norm_of_output.find(after);
      if (norm != parts_.norm_of_output.end()) {
        block.nodes.insert(block.nodes.end(), norm->second->nodes.begin(), norm->second->nodes.end());
      } else if (after != nullptr && after->producer() != nullptr) {
        block.nodes.push_back(after->producer());
      }
    }
    const Node* before = block.input->producer();
    std::set<Node*> members(block.nodes.begin(), block.nodes.end());
    std::vector<Node*> open(members.begin(), members.end());
    while (!open.empty()) {
      const Node* node = open.back();
      open.pop_back();
      for (const Value* input : node->inputs()) {
        Node* producer = input == nullptr ? nullptr : input->producer();
        if (producer == nullptr || producer == before || producer->graph() != &graph_) continue;
        if (members.count(producer) != 0) continue;
        if (!serves_only(*producer, members)) continue;
        members.insert(producer);
        open.push_back(producer);
      }
    }
    block.nodes.assign(members.begin(), members.end());
    sort_nodes(block.nodes);
  }

  static bool serves_only(const Node& node, const std::set<Node*>& members) {
    for (const Value* output : node.outputs()) {
      if (output == nullptr) continue;
      for (const Use& use : output->uses()) {
        if (use.node == nullptr || members.count(use.node) == 0) return false;
      }
    }
    return true;
  }

  void describe_unknown(const Block& block) {
    for (const Sublayer& sublayer : block.sublayers) {
      if (sublayer.kind != Sublayer::Kind::kOther) continue;
      std::set<std::string> operators;
      for (const Node* node : sublayer.nodes) operators.insert(node->op_type());
      std::string list;
      for (const std::string& op : operators) list += (list.empty() ? "" : ", ") + op;
      note(*sublayer.add, "a residual branch of an unknown kind: " + list);
    }
  }

  void take_leftovers() {
    view_.notes.insert(view_.notes.begin(), parts_.notes.begin(), parts_.notes.end());
    std::set<const Node*> used;
    for (const Block& block : view_.blocks) used.insert(block.nodes.begin(), block.nodes.end());
    for (const Attention& attention : parts_.attentions) {
      const Node* anchor = attention.fused != nullptr ? attention.fused : attention.softmax;
      if (used.count(anchor) != 0) continue;
      view_.attentions.push_back(attention);
      note(*anchor, "attention outside of a residual block");
    }
    for (const FeedForward& feed_forward : parts_.feed_forwards) {
      if (used.count(feed_forward.down.product) == 0) view_.feed_forwards.push_back(feed_forward);
    }
  }

  const Graph& graph_;
  Parts parts_;
  std::vector<Stage> stages_;
  std::vector<int> before_;
  BlockView view_;
};

// Every constant that the nodes read, once.
template <typename Count>
std::int64_t sum_constants(const std::vector<Node*>& nodes, Count count) {
  std::set<const void*> seen;
  std::int64_t sum = 0;
  for (const Node* node : nodes) {
    for (Value* input : node->inputs()) {
      const Tensor* tensor = constant(behind_identity(input));
      if (tensor != nullptr && tensor->size() > 1 && is_float(tensor->dtype()) &&
          seen.insert(tensor->identity()).second)
        sum += count(*tensor);
    }
  }
  return sum;
}

}  // namespace

std::int64_t Block::parameters() const {
  return sum_constants(nodes, [](const Tensor& tensor) { return tensor.size(); });
}

std::int64_t Block::weight_bytes() const {
  return sum_constants(nodes, [](const Tensor& tensor) { return tensor.nbytes(); });
}

std::string_view name(Block::Kind kind) {
  constexpr std::array<std::string_view, 7> kNames = {"pre-norm",    "post-norm",   "parallel", "sandwich-norm",
                                                      "branch-norm", "convolution", "other"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::string_view name(Sublayer::Kind kind) {
  constexpr std::array<std::string_view, 5> kNames = {"attention", "feed-forward", "mixture of experts", "convolution",
                                                      "unknown"};
  return kNames[static_cast<std::size_t>(kind)];
}

BlockView find_blocks(const Graph& graph) { return BlockFinder(graph).run(); }

}  // namespace onnxfold
