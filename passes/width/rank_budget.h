// How many parameters each weight may keep as two thin factors.
#pragma once

#include <cstdint>
#include <vector>

namespace onnxfold {

// A weight [in, out]: rank r costs r (in + out) parameters and leaves an error of the squared singular values behind r.
struct RankCurve {
  std::int64_t in = 0, out = 0;
  std::vector<double> singular;  // falling
};

// A rank for each weight; 0: stays dense, because its rank would save nothing. In all at most `budget` parameters (or
// one rank for every weight, where even that is more).
// The same share of parameters for every weight.
std::vector<std::int64_t> uniform_ranks(const std::vector<RankCurve>& curves, std::int64_t budget);
// Parameters go where they take away the most error (greedy on a convex curve, hence the best); the error of a weight
// counts as a share of its energy to the power `relative`: 0 absolute, 1 relative. No rank falls below `least` of the
// uniform one: the error of a layer's own output says little of what a starved layer does to the model.
std::vector<std::int64_t> ranks_by_error(const std::vector<RankCurve>& curves, std::int64_t budget, double relative,
                                         double least = 0);
// The same with the harm of a unit of squared error given for each weight, as it was measured on the model.
std::vector<std::int64_t> ranks_by_harm(const std::vector<RankCurve>& curves, std::int64_t budget,
                                        const std::vector<double>& harm, double least = 0);
// Squares of the singular values that rank `rank` leaves out.
double tail_of(const RankCurve& curve, std::int64_t rank);

}  // namespace onnxfold
