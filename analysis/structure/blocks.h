// Blocks: the residual stream of a network, from embedding to head, cut into its repeating units.
//
// A residual Add joins a stream value with what a branch computed from it. Its branch holds sublayers: attentions,
// feed-forward layers, mixtures of experts, convolutions, or something that is not understood. Consecutive residual
// Adds form a block: attention and feed-forward one after the other (pre-norm or post-norm), side by side, cross
// attention between them, several of each. Also seen: SkipLayerNormalization as Add and norm in one, layer scale,
// modulation (adaLN), sums of branches, norms after the branch, windows (anything that only moves elements). A Block
// can be dropped by putting `input` in the place of `output`: both are values of the same stream, and types agree where
// they are known.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "analysis/structure/attention.h"
#include "analysis/structure/feed_forward.h"
#include "analysis/structure/norm.h"
#include "analysis/structure/note.h"

namespace onnxfold {

struct Sublayer {
  enum class Kind { kAttention, kFeedForward, kMixture, kConvolution, kOther };

  Kind kind = Kind::kOther;
  std::optional<Attention> attention;
  std::optional<FeedForward> feed_forward;
  std::optional<MixtureOfExperts> mixture;
  std::optional<Norm> norm;       // between stream and sublayer (pre-norm)
  std::optional<Norm> post_norm;  // between sublayer and residual Add
  Value* layer_scale = nullptr;   // constant factor per channel between sublayer and Add
  Value* gate = nullptr;          // computed factor there (adaLN, gated cross attention)
  bool modulated = false;         // scale and shift computed from elsewhere between norm and sublayer (adaLN)
  bool cross = false;             // attention to another stream

  Value* reads = nullptr;    // the stream value that its branch begins with
  Node* add = nullptr;       // its residual Add or SkipLayerNormalization; sublayers side by side share one
  Value* addend = nullptr;   // operand of `add`: the branch, layer scale and joining Adds included
  Value* stream = nullptr;   // the other operand
  std::vector<Node*> nodes;  // between `reads` and `addend`, in topological order; of a shared branch: all of it
};

struct Block {
  // Sandwich: norms before and after each sublayer; branch norm: only after it, before the Add.
  enum class Kind { kPreNorm, kPostNorm, kParallel, kSandwich, kBranchNorm, kConvolution, kOther };

  Kind kind = Kind::kOther;
  std::vector<Sublayer> sublayers;  // in the order of their Adds
  Value* input = nullptr;           // the stream before...
  Value* output =
      nullptr;  // ...and after: behind the norm of a post-norm block, behind the activation of a ResNet block
  std::optional<Norm> final_norm;  // of a post-norm block: the last norm, which makes `output`
  std::size_t stream = 0;          // blocks of one stream follow each other; encoder and decoder are two streams
  std::int64_t width = 0;          // channels of the stream; 0 when not known
  std::vector<Node*> nodes;        // from input to output, with what serves nothing else, in topological order

  std::int64_t parameters() const;  // elements of constants that `nodes` read, each counted once
  std::int64_t weight_bytes() const;
};

std::string_view name(Block::Kind kind);
std::string_view name(Sublayer::Kind kind);

struct BlockView {
  std::vector<Block> blocks;          // in topological order of their outputs
  std::vector<Attention> attentions;  // not part of any block
  std::vector<FeedForward> feed_forwards;
  std::vector<StructureNote> notes;  // what was not understood
};

// The main residual streams of a graph. Types must have been inferred.
BlockView find_blocks(const Graph& graph);

}  // namespace onnxfold
