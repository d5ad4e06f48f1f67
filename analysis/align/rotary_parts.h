// What rotary embedding leaves free inside of a head: which elements it rotates together.
//
// softmax(q k') does not change when q and k are turned by one map that commutes with the rotation: in every pair of
// elements that is rotated together a rotation by any angle (a complex phase), among the elements that are not rotated
// any orthogonal map. For operators the pairs follow from the attributes; chains of Mul, Slice and Concat are run on
// unit vectors, once with random tables (which elements meet) and once with their own (do they meet as a rotation?), so
// that halves, neighbours and whatever else an exporter writes need no rules of their own.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/structure/attention.h"
#include "ir/model.h"

namespace onnxfold {

// Elements of a head by index; those in neither list have to stay as they are.
struct RotaryParts {
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
  std::vector<std::int64_t> free;  // passed through unchanged
};

class RotaryProbe {
 public:
  // REQUIRES that the model stays as it is meanwhile.
  explicit RotaryProbe(const Model& model) : model_(model) {}

  // Of queries and keys of an attention of this model, which has rotary embedding on both. None when that cannot be
  // told: nothing may move then.
  std::optional<RotaryParts> of(const Attention& attention);

 private:
  struct Chain;
  std::optional<RotaryParts> probed(const Chain& q, const Chain& k, std::int64_t width);

  const Model& model_;
  std::map<std::string, std::optional<RotaryParts>> known_;  // by how the chains are made: layers share that
};

}  // namespace onnxfold
