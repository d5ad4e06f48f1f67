// Tied weights that are fitted when they are written, so that a model of any size is tied in the room of a few weights.
#pragma once

#include <memory>

#include "passes/tie/tie_group.h"

namespace onnxfold {

// Bytes that fitting a group takes at most without data: two matrices of its size in double, a third in passing, and
// four squares of the shorter side.
std::int64_t fit_bytes(const TieWeights& weights);

// Fits of one pass. They share room: those that run at one time take at most `room` bytes (one always runs), and what
// the latest two have made and nobody has asked for yet is kept.
class DeferredTies {
 public:
  explicit DeferredTies(std::int64_t room);

  // Deferred tensors of what fit_weights() gives without data at this rank. `ranks`: of each member's correction as
  // stored, filled up with zeros; 0: none. REQUIRES at least those of outline_of().
  TiedTensors tensors_of(const TieWeights& weights, const TieOptions& options, std::int64_t rank,
                         const std::vector<std::int64_t>& ranks);

 private:
  class Room;
  class Fit;
  std::shared_ptr<Room> room_;
};

}  // namespace onnxfold
