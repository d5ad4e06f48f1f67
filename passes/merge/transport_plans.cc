#include "passes/merge/transport_plans.h"

#include <algorithm>
#include <cmath>

#include "analysis/align/transport.h"
#include "passes/merge/head_match.h"

namespace onnxfold {
namespace {

Result<Matrix> solved(const Matrix& cost, const TransportOptions& options) {
  if (options.exact) return exact_transport(cost);
  SinkhornOptions sinkhorn_options;
  sinkhorn_options.lambda = options.lambda;
  return sinkhorn(cost, sinkhorn_options);
}

Matrix block(const Matrix& whole, std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols) {
  Matrix part(rows, cols);
  for (std::int64_t i = 0; i < rows; ++i) {
    std::copy_n(whole.data.begin() + (row + i) * whole.cols + col, cols, part.data.begin() + i * cols);
  }
  return part;
}

SitePlan described(Matrix plan, const Similarity& similarity, const Matrix& cost) {
  SitePlan result;
  result.after = transport_cost(plan, similarity.values);
  result.cost = transport_cost(plan, cost);
  result.sharpness = sharpness(plan);
  if (plan.rows == plan.cols) {
    for (std::int64_t i = 0; i < plan.rows; ++i)
      result.before += similarity.values.at(i, i) / static_cast<double>(plan.rows);
  }
  result.plan = std::move(plan);
  return result;
}

// One site whose heads are blocks of its plan.
class HeadBlocks {
 public:
  HeadBlocks(const TransportSite& site, const Similarity& similarity, const TransportOptions& options)
      : site_(site),
        similarity_(similarity),
        cost_(distances(similarity)),
        rows_(cost_.rows / site.first_heads),
        cols_(cost_.cols / site.second_heads),
        longest_(site.whole_heads ? longest_distance(similarity) : 1),
        heads_(site.first_heads, site.second_heads),
        options_(options) {}

  // What it costs to take a head for another.
  Result<Matrix> head_costs() {
    for (std::int64_t a = 0; a < heads_.rows; ++a) {
      for (std::int64_t b = 0; b < heads_.cols; ++b) {
        if (site_.whole_heads) {
          OF_ASSIGN(HeadMatch match, match_head(similarity_, site_.turns, a, b, rows_,
                                                [&](const Matrix& each) { return solved(each, options_); }));
          heads_.at(a, b) = std::sqrt(match.squares / static_cast<double>(rows_)) / longest_;
          for (double& x : match.map.data) x /= static_cast<double>(rows_);
          inner_.push_back(std::move(match.map));
          continue;
        }
        const Matrix cost = block(cost_, a * rows_, b * cols_, rows_, cols_);
        OF_ASSIGN(Matrix plan, solved(cost, options_));
        heads_.at(a, b) = transport_cost(plan, cost);
        inner_.push_back(std::move(plan));
      }
    }
    return heads_;
  }

  SitePlan plan(const Matrix& heads) const {
    Matrix whole(cost_.rows, cost_.cols);
    for (std::int64_t a = 0; a < heads.rows; ++a) {
      for (std::int64_t b = 0; b < heads.cols; ++b) {
        if (heads.at(a, b) == 0) continue;
        for (std::int64_t i = 0; i < rows_; ++i) {
          for (std::int64_t j = 0; j < cols_; ++j) {
            whole.at(a * rows_ + i, b * cols_ + j) =
                heads.at(a, b) * inner_[static_cast<std::size_t>(a * heads.cols + b)].at(i, j);
          }
        }
      }
    }
    SitePlan result = described(std::move(whole), similarity_, cost_);
    if (site_.whole_heads && !site_.turns.empty()) describe_turned(heads, result);
    return result;
  }

 private:
  // What turns has no shares: heads are what goes somewhere.
  void describe_turned(const Matrix& heads, SitePlan& result) const {
    result.sharpness = sharpness(heads);
    result.cost = transport_cost(heads, heads_);
    result.after = 0;
    for (std::size_t i = 0; i < heads.data.size(); ++i) {
      const double distance = heads_.data[i] * longest_;
      result.after += heads.data[i] * (1 - distance * distance / 2);
    }
  }
  // The distance that the cost counts as 1.
  static double longest_distance(const Similarity& similarity) {
    double squares = 0;
    for (std::int64_t i = 0; i < similarity.values.rows; ++i) {
      for (std::int64_t j = 0; j < similarity.values.cols; ++j) {
        const double both =
            similarity.first[static_cast<std::size_t>(i)] + similarity.second[static_cast<std::size_t>(j)];
        squares = std::max(squares, both - 2 * similarity.values.at(i, j));
      }
    }
    return squares > 0 ? std::sqrt(squares) : 1;
  }

  const TransportSite& site_;
  const Similarity& similarity_;
  Matrix cost_;
  std::int64_t rows_, cols_;
  double longest_;
  Matrix heads_;
  std::vector<Matrix> inner_;
  const TransportOptions& options_;
};

Result<Matrix> head_plan(const TransportSite& site, const Matrix& costs, bool exact, const TransportOptions& options) {
  if (!site.fixed_heads) return exact ? exact_transport(costs) : solved(costs, options);
  Matrix plan = identity_matrix(costs.rows);
  for (double& x : plan.data) x /= static_cast<double>(costs.rows);
  return plan;
}

Result<std::vector<SitePlan>> solve_apart(const std::vector<const TransportSite*>& sites,
                                          const std::vector<Similarity>& similarities,
                                          const TransportOptions& options) {
  std::vector<HeadBlocks> blocks;
  Matrix costs(sites.front()->first_heads, sites.front()->second_heads);
  for (std::size_t i = 0; i < sites.size(); ++i) {
    blocks.emplace_back(*sites[i], similarities[i], options);
    OF_ASSIGN(const Matrix own, blocks.back().head_costs());
    costs = sum(costs, own);
  }
  OF_ASSIGN(const Matrix heads, head_plan(*sites.front(), costs, true, options));
  std::vector<SitePlan> plans;
  plans.reserve(blocks.size());
  for (const HeadBlocks& each : blocks) plans.push_back(each.plan(heads));
  return plans;
}

}  // namespace

Result<SitePlan> solve_distances(const Similarity& similarity, const Matrix& cost, const TransportOptions& options) {
  OF_ASSIGN(Matrix plan, solved(cost, options));
  return described(std::move(plan), similarity, cost);
}

Result<std::vector<SitePlan>> solve_sites(const std::vector<const TransportSite*>& sites,
                                          const std::vector<Similarity>& similarities,
                                          const TransportOptions& options) {
  const bool apart = sites.front()->first_heads > 0 && (options.heads_apart || sites.front()->fixed_heads);
  if (apart) return solve_apart(sites, similarities, options);
  std::vector<SitePlan> plans;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    if (sites[i]->whole_heads) {
      HeadBlocks blocks(*sites[i], similarities[i], options);
      OF_ASSIGN(Matrix costs, blocks.head_costs());
      const double largest = *std::max_element(costs.data.begin(), costs.data.end());
      for (double& x : costs.data) x = largest > 0 ? x / largest : x;
      OF_ASSIGN(const Matrix heads, head_plan(*sites[i], costs, options.exact, options));
      plans.push_back(blocks.plan(heads));
      continue;
    }
    OF_ASSIGN(SitePlan plan, solve_distances(similarities[i], distances(similarities[i]), options));
    plans.push_back(std::move(plan));
  }
  return plans;
}

Status solve_team(const std::vector<std::size_t>& team, const std::vector<Similarity>& similarities,
                  const TransportSites& sites, const TransportOptions& options, SitePlans& plans) {
  std::vector<const TransportSite*> members;
  members.reserve(team.size());
  for (const std::size_t i : team) members.push_back(&sites.sites[i]);
  auto solved = solve_sites(members, similarities, options);
  if (!solved) return fail(solved.error().in(members.front()->name));
  for (std::size_t k = 0; k < team.size(); ++k) plans[team[k]] = std::move((*solved)[k]);
  return {};
}

}  // namespace onnxfold
