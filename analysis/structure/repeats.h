// Repeats: runs of equal blocks in a graph, one after the other, whatever they are made of.
//
// Blocks t = 0..T-1 of a run have the same nodes (operator, attributes, edges among them); they differ in constants of
// equal type, in which of several inputs they read, and in that block t + 1 reads what block t carries on. Found by the
// shape of the graph alone, never by names or by what operators mean: a pair of nodes of one operation is walked
// backwards at the same time; where the walk of the later one meets the image of the run's end, one block is complete.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "analysis/structure/operations.h"
#include "ir/graph.h"

namespace onnxfold {

// Where operand i of a block's node comes from.
struct BlockOperand {
  enum class Kind {
    kOmitted,
    kInner,    // output `output` of the block's node `index`
    kShared,   // Repeat::shared[index]: the same in every block
    kCarried,  // Repeat::carried[index]
    kVarying,  // Repeat::varying[index]
  };
  Kind kind = Kind::kOmitted;
  int index = 0;
  int output = 0;
};

struct Repeat {
  // What one block hands to the next: output `output` of node `node`.
  struct Carried {
    int node = 0;
    int output = 0;
  };
  // What is read outside of the run: output `output` of node `node` in those blocks where `wanted`. The last value of
  // what is carried is not listed.
  struct Outside {
    int node = 0;
    int output = 0;
    std::vector<bool> wanted;  // by block
  };

  std::vector<std::vector<Node*>> blocks;           // [block][node], nodes in topological order of the last block
  std::vector<std::vector<BlockOperand>> operands;  // [node][operand], operands as Operations has them
  std::vector<Carried> carried;                     // at least one
  std::vector<std::vector<Value*>> carried_in;      // [block][carried]: what the block reads
  std::vector<Value*> shared;                       // made outside, or one of several constants of equal content
  std::vector<std::vector<Value*>> varying;         // [slot][block]: constants, or values of one shape made outside
  std::vector<Outside> outside;
  std::string before;  // why the run does not start earlier, where what is before it is much like a block; or empty

  std::size_t count() const { return blocks.size(); }
  std::size_t node_count() const { return operands.size(); }
};

struct RepeatOptions {
  std::size_t least_blocks = 2;
  std::size_t least_saved_nodes = 6;  // fewer than these are not worth a loop
  std::size_t blocks_in_body = 0;     // blocks joined to one; 0: as many as the pattern of shared constants asks for
};

// What looked most like blocks in a row and is none.
struct NearRepeat {
  std::string node;  // where its last block ends; empty: nothing looked like blocks
  std::string reason;
  std::size_t alike = 0;  // nodes that were alike
};

// Are both tensors of one type and provably of one shape (equal numbers or symbols)?
bool same_shape(const Value& a, const Value& b);

// Runs that do not overlap, in topological order of their last node; those that save most nodes come first where they
// compete. Types must have been inferred. `nearest` tells what is found where there are none.
std::vector<Repeat> find_repeats(const Graph& graph, const RepeatOptions& options = {}, NearRepeat* nearest = nullptr);

}  // namespace onnxfold
