// Queries that share a key: which of them goes to which. Moving them about inside of their group changes nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "analysis/align/cross_statistics.h"
#include "analysis/align/heads.h"
#include "ir/result.h"

namespace onnxfold {

struct QueryGroups {
  std::int64_t first = 0, second = 0;  // key-value heads of both models
  std::int64_t repeats = 1;            // queries of each
  bool in_place = false;               // elements of a head stay where they are (rotary embedding)...
  std::vector<HeadPart> turns = {};    // ...but for this
};

// Similarities are over the columns of all query heads, and of all key heads, head by head. Returns for every group of
// the first model: which of its queries comes to each place. Errors: those of exact_transport.
Result<std::vector<std::vector<std::int64_t>>> query_order(const Similarity& queries, const Similarity& keys,
                                                           const QueryGroups& groups);

}  // namespace onnxfold
