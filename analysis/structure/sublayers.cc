#include "analysis/structure/sublayers.h"

#include <algorithm>

#include "analysis/structure/head_layout.h"
#include "analysis/structure/region.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 24;

Node* anchor(const Attention& attention) { return attention.fused != nullptr ? attention.fused : attention.softmax; }

class BranchReader {
 public:
  BranchReader(const Residual& residual, const Parts& parts) : residual_(residual), parts_(parts) {}

  std::vector<Sublayer> read() {
    for (const Attention& attention : parts_.attentions) take(attention);
    const bool mixed = take_mixture();
    for (const FeedForward& feed_forward : parts_.feed_forwards) {
      if (!mixed) take(feed_forward);
    }
    if (found_.empty()) take_rest();
    std::stable_sort(found_.begin(), found_.end(), [](const Sublayer& a, const Sublayer& b) {
      return a.nodes.front() != b.nodes.front() && a.nodes.front()->graph()->before(*a.nodes.front(), *b.nodes.front());
    });
    if (side_by_side()) {  // the order of their nodes means nothing
      std::stable_sort(found_.begin(), found_.end(),
                       [](const Sublayer& a, const Sublayer& b) { return a.kind < b.kind; });
    }
    for (Sublayer& sublayer : found_) sublayer.nodes = branch_nodes();
    return std::move(found_);
  }

 private:
  // Do all of them read the stream, or a norm of it?
  bool side_by_side() const {
    return std::all_of(found_.begin(), found_.end(), [&](const Sublayer& sublayer) {
      const Value* input = sublayer.attention      ? sublayer.attention->input
                           : sublayer.feed_forward ? sublayer.feed_forward->input
                                                   : nullptr;
      if (input == nullptr) return false;
      return input == residual_.reads ||
             (sublayer.norm && sublayer.norm->output == input && sublayer.norm->input == residual_.reads);
    });
  }

  bool holds(Node* node) const { return node != nullptr && residual_.branch.count(node) != 0; }

  std::vector<Node*> branch_nodes() const {
    std::vector<Node*> nodes(residual_.branch.begin(), residual_.branch.end());
    sort_nodes(nodes);
    return nodes;
  }

  // `first` orders the sublayers of one branch.
  Sublayer& add(Sublayer::Kind kind, Node* first) {
    Sublayer sublayer;
    sublayer.kind = kind;
    sublayer.reads = residual_.reads;
    sublayer.add = residual_.add;
    sublayer.addend = residual_.addend;
    sublayer.stream = residual_.stream;
    sublayer.nodes = {first};
    return found_.emplace_back(std::move(sublayer));
  }

  void take(const Attention& attention) {
    if (!holds(anchor(attention))) return;
    Sublayer& sublayer = add(Sublayer::Kind::kAttention, anchor(attention));
    sublayer.attention = attention;
    const Linear* keys = attention.k.linear ? &*attention.k.linear : nullptr;
    sublayer.cross = attention.cross && (keys == nullptr || !holds(keys->product));
    find_norm(sublayer, attention.input);
    follow_output(sublayer, attention.output);
  }

  void take(const FeedForward& feed_forward) {
    if (!holds(feed_forward.down.product) || !holds(feed_forward.up.product)) return;
    Sublayer& sublayer = add(Sublayer::Kind::kFeedForward, feed_forward.down.product);
    sublayer.feed_forward = feed_forward;
    find_norm(sublayer, feed_forward.input);
    follow_output(sublayer, feed_forward.output);
  }

  bool take_mixture() {
    for (const MixtureOfExperts& mixture : parts_.mixtures) {
      if (!holds(mixture.router)) continue;
      Sublayer& sublayer = add(Sublayer::Kind::kMixture, mixture.router);
      sublayer.mixture = mixture;
      find_norm(sublayer, mixture.input);
      return true;
    }
    return false;
  }

  void take_rest() {
    const bool convolution = std::any_of(residual_.branch.begin(), residual_.branch.end(), [](const Node* node) {
      return node->is("Conv") || node->is("ConvTranspose") || node->is("FusedConv", "com.microsoft");
    });
    const std::vector<Node*> nodes = branch_nodes();
    Sublayer& sublayer = add(convolution ? Sublayer::Kind::kConvolution : Sublayer::Kind::kOther, nodes.front());
    const auto norm = parts_.norm_of_input.find(residual_.reads);
    if (norm != parts_.norm_of_input.end() && holds(norm->second->nodes.front())) sublayer.norm = *norm->second;
  }

  // Backwards from what the sublayer reads to the first norm, or to the stream.
  void find_norm(Sublayer& sublayer, Value* input) const {
    std::vector<Value*> open = {input};
    std::set<const Value*> seen;
    bool changed = false;
    while (!open.empty()) {
      Value* value = open.front();
      open.erase(open.begin());
      if (value == nullptr || value == residual_.reads || !seen.insert(value).second) continue;
      const auto norm = parts_.norm_of_output.find(value);
      if (norm != parts_.norm_of_output.end()) {
        sublayer.norm = *norm->second;
        sublayer.modulated = changed;
        return;
      }
      const Node* node = value->producer();
      if (node == nullptr || residual_.branch.count(const_cast<Node*>(node)) == 0) continue;
      changed = changed || node->is("Mul") || node->is("Add");
      open.insert(open.end(), node->inputs().begin(), node->inputs().end());
    }
  }

  // Forward from what the sublayer makes to the residual Add.
  void follow_output(Sublayer& sublayer, Value* value) const {
    for (int i = 0; i < kMaxSteps && value != nullptr && value != residual_.addend; ++i) {
      const auto norm = parts_.norm_of_input.find(value);
      if (norm != parts_.norm_of_input.end() && norm->second->skip == nullptr) {
        sublayer.post_norm = *norm->second;
        value = norm->second->output;
        continue;
      }
      Node* node = data_reader(value);
      if (node == nullptr || !holds(node)) return;
      if (node->is("Mul")) {
        Value* factor = behind_identity(node->input(node->input(0) == value ? 1 : 0));
        (constant(factor) != nullptr ? sublayer.layer_scale : sublayer.gate) = factor;
      } else if (!node->is("Add") && !node->is("Cast") && !node->is("Dropout") && !moves_elements(*node) &&
                 !node->is("Concat")) {
        return;
      }
      value = node->output();
    }
  }

  const Residual& residual_;
  const Parts& parts_;
  std::vector<Sublayer> found_;
};

}  // namespace

Parts::Parts(const Graph& graph)
    : attentions(find_attentions(graph, &notes)),
      feed_forwards(find_feed_forwards(graph)),
      mixtures(find_mixtures(graph)),
      norms(find_norms(graph)) {
  for (const Attention& attention : attentions) inner.insert(attention.nodes.begin(), attention.nodes.end());
  for (const FeedForward& feed_forward : feed_forwards)
    inner.insert(feed_forward.nodes.begin(), feed_forward.nodes.end());
  for (const Norm& norm : norms) {
    inner.insert(norm.nodes.begin(), norm.nodes.end());
    norm_of_input.emplace(norm.input, &norm);
    norm_of_output.emplace(norm.output, &norm);
  }
  for (const ActivationMatch& activation : find_activations(graph)) {
    inner.insert(activation.nodes.begin(), activation.nodes.end());
  }
}

std::vector<Sublayer> sublayers_of(const Residual& residual, const Parts& parts) {
  return BranchReader(residual, parts).read();
}

}  // namespace onnxfold
