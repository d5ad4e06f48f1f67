// One head for another whose elements are not free: rotary embedding or norms let pairs turn, signs change, and some
// elements go anywhere.
#pragma once

#include <functional>

#include "analysis/align/cross_statistics.h"
#include "analysis/align/heads.h"
#include "ir/result.h"

namespace onnxfold {

struct HeadMatch {
  Matrix map;          // [width, width]; element i of the first goes to j: rows sum to 1 but where pairs turn
  double squares = 0;  // of the distances of what goes together (features of length 1), over all elements
};

using TransportSolver = std::function<Result<Matrix>(const Matrix& cost)>;

// Head `a` of the first model onto head `b` of the second, where heads of `width` follow each other in the similarity.
// Angles and signs in closed form; elements that may go anywhere by `solve`; those in no part stay. Errors: those of
// `solve`.
Result<HeadMatch> match_head(const Similarity& similarity, const std::vector<HeadPart>& parts, std::int64_t a,
                             std::int64_t b, std::int64_t width, const TransportSolver& solve);

}  // namespace onnxfold
