// The heads of one attention as neurons: which head goes to which, and the rotations inside.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/align/axis_map.h"
#include "analysis/align/rotary_parts.h"
#include "analysis/structure/attention.h"

namespace onnxfold {

// How elements of a head may move: all change their sign, a pair turns by an angle, among each other, in any way.
enum class HeadFreedom { kSign, kPhase, kPermute, kRotate };

struct HeadPart {
  HeadFreedom freedom;
  std::vector<std::int64_t> elements;  // of a head, by index
};

struct HeadSite {
  std::string name;
  Attention attention;
  std::int64_t repeats = 1;              // query heads of one key-value head, side by side
  bool permutable = true;                // no mask, cache or interface tells heads apart
  std::vector<HeadPart> scores, values;  // of q and k, of v and the context; elements in no part stay
};

// Does nothing else read what the attention makes inside, but for shapes? (Relative positions may read queries and
// keys.)
bool self_contained(const Attention& attention);
// Keys and values of earlier positions come in, or somebody reads those that it keeps: their heads are seen outside.
bool keeps_cache(const Attention& attention);

// None when q, k, v or the output are not plain Linears, something else reads them, or the columns cannot be told.
// `rotate` false: permutations only. `rotary` null: what it leaves free is not known.
std::optional<HeadSite> head_site(const Attention& attention, bool rotate, const RotaryParts* rotary);

// The parts of q's and k's heads: rotary embedding allows phases of its pairs and anything among the elements that it
// passes; norms of q and k (RMS) keep directions where their gains are equal, and signs elsewhere.
std::vector<HeadPart> score_parts(const Attention& attention, bool rotate, const RotaryParts* rotary);
// The orthogonal map of these parts that makes tr(map' cross) largest, in closed form.
Matrix best_head_map(const Matrix& cross, const std::vector<HeadPart>& parts);

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
