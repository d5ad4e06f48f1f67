// The heads of one attention as neurons: which head goes to which, and the rotations inside.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/align/axis_map.h"
#include "analysis/structure/attention.h"

namespace onnxfold {

// How the channels inside of a head may move.
enum class HeadFreedom { kNone, kPermute, kRotate };

struct HeadSite {
  std::string name;
  Attention attention;
  std::int64_t repeats = 1;  // query heads of one key-value head, side by side
  bool permutable = true;    // no mask, cache or interface tells heads apart
  HeadFreedom scores = HeadFreedom::kRotate, values = HeadFreedom::kRotate;
};

// Does nothing else read what the attention makes inside, but for shapes? (Relative positions may read queries and
// keys.)
bool self_contained(const Attention& attention);

// None when q, k, v or the output are not plain Linears, something else reads them, or the columns cannot be told.
// `rotate` false: permutations only.
std::optional<HeadSite> head_site(const Attention& attention, bool rotate);

// Cross products of two models over the columns of q's, k's and v's Linears and the rows of the output Linear; any may
// be empty (nothing known).
struct HeadCross {
  Matrix q, k, v, context;
};

struct HeadMaps {
  AxisMaps maps;                 // of the weights and biases of the four Linears
  double before = 0, after = 0;  // similarity: trace with the identity and with the maps, of what was given
};
HeadMaps best_heads(const HeadSite& site, const HeadCross& cross);

}  // namespace onnxfold
