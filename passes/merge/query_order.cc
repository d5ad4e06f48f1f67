#include "passes/merge/query_order.h"

#include <cmath>

#include "analysis/algebra/assignment.h"
#include "analysis/align/transport.h"
#include "passes/merge/head_match.h"

namespace onnxfold {
namespace {

// What it costs to take one head for another.
class HeadCosts {
 public:
  HeadCosts(const Similarity& similarity, std::int64_t first, std::int64_t second, const QueryGroups& groups)
      : similarity_(similarity),
        cost_(distances(similarity)),
        rows_(cost_.rows / first),
        cols_(cost_.cols / second),
        groups_(groups) {}

  Result<double> of(std::int64_t a, std::int64_t b) const {
    if (groups_.in_place) {
      OF_ASSIGN(const HeadMatch match, match_head(similarity_, groups_.turns, a, b, rows_, exact_transport));
      return std::sqrt(match.squares / static_cast<double>(rows_));
    }
    Matrix block(rows_, cols_);
    for (std::int64_t i = 0; i < rows_; ++i) {
      for (std::int64_t j = 0; j < cols_; ++j) block.at(i, j) = cost_.at(a * rows_ + i, b * cols_ + j);
    }
    OF_ASSIGN(const Matrix plan, exact_transport(block));
    return transport_cost(plan, block);
  }

 private:
  const Similarity& similarity_;
  Matrix cost_;
  std::int64_t rows_, cols_;
  const QueryGroups& groups_;
};

struct Pairing {
  std::vector<std::int64_t> place_of;  // of every query of the first model's group
  double cost = 0;
};

Result<Pairing> pair(const HeadCosts& queries, std::int64_t a, std::int64_t b, std::int64_t repeats) {
  Matrix gains(repeats, repeats);
  for (std::int64_t i = 0; i < repeats; ++i) {
    for (std::int64_t j = 0; j < repeats; ++j) {
      OF_ASSIGN(const double cost, queries.of(a * repeats + i, b * repeats + j));
      gains.at(i, j) = -cost;
    }
  }
  Pairing result;
  result.place_of = best_assignment(gains);
  for (std::int64_t i = 0; i < repeats; ++i) result.cost -= gains.at(i, result.place_of[static_cast<std::size_t>(i)]);
  return result;
}

}  // namespace

Result<std::vector<std::vector<std::int64_t>>> query_order(const Similarity& queries, const Similarity& keys,
                                                           const QueryGroups& groups) {
  const HeadCosts query_costs(queries, groups.first * groups.repeats, groups.second * groups.repeats, groups);
  const HeadCosts key_costs(keys, groups.first, groups.second, groups);
  std::vector<std::vector<std::int64_t>> result;
  for (std::int64_t a = 0; a < groups.first; ++a) {
    Pairing best;
    for (std::int64_t b = 0; b < groups.second; ++b) {
      OF_ASSIGN(Pairing each, pair(query_costs, a, b, groups.repeats));
      OF_ASSIGN(const double key, key_costs.of(a, b));
      each.cost += key;
      if (b == 0 || each.cost < best.cost) best = std::move(each);
    }
    std::vector<std::int64_t> order(best.place_of.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[static_cast<std::size_t>(best.place_of[i])] = static_cast<std::int64_t>(i);
    }
    result.push_back(std::move(order));
  }
  return result;
}

}  // namespace onnxfold
