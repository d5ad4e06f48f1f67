#include "analysis/align/transport.h"

#include <lemon/full_graph.h>
#include <lemon/network_simplex.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "analysis/algebra/assignment.h"

namespace onnxfold {
namespace {

// Costs as whole numbers: with rounded sums of doubles the simplex can take turns forever where costs tie. Potentials
// are sums over paths, so as many bits are left free as the number of nodes has.
double units_of_cost(const Matrix& cost) {
  const double largest = std::abs(*std::max_element(cost.data.begin(), cost.data.end(),
                                                    [](double a, double b) { return std::abs(a) < std::abs(b); }));
  const int bits = std::min(50, 58 - std::ilogb(static_cast<double>(cost.rows + cost.cols)));
  return largest > 0 ? std::ldexp(1.0, bits) / largest : 1;
}

// Supplies are whole numbers: every row gives n1 / gcd, every column takes n0 / gcd.
Result<Matrix> network_transport(const Matrix& cost) {
  using Graph = lemon::FullBpGraph;
  const auto rows = static_cast<int>(cost.rows), cols = static_cast<int>(cost.cols);
  const std::int64_t shared = std::gcd(cost.rows, cost.cols);
  const std::int64_t row_units = cost.cols / shared, column_units = cost.rows / shared;
  const Graph graph(rows, cols);
  lemon::FullBpGraph::ArcMap<std::int64_t> upper(graph, 0);
  lemon::FullBpGraph::ArcMap<std::int64_t> costs(graph, 0);
  lemon::FullBpGraph::NodeMap<std::int64_t> supply(graph, 0);
  const double units = units_of_cost(cost);
  for (int i = 0; i < rows; ++i) supply[graph.redNode(i)] = row_units;
  for (int j = 0; j < cols; ++j) supply[graph.blueNode(j)] = -column_units;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) {
      const auto arc = graph.arc(graph.redNode(i), graph.blueNode(j));
      upper[arc] = std::min(row_units, column_units);
      costs[arc] = std::llround(cost.at(i, j) * units);
    }
  }
  lemon::NetworkSimplex<Graph, std::int64_t, std::int64_t> simplex(graph);
  simplex.upperMap(upper).costMap(costs).supplyMap(supply);
  if (simplex.run() != lemon::NetworkSimplex<Graph, std::int64_t, std::int64_t>::OPTIMAL) {
    return fail(Code::kInternal, "transport: the network simplex found no optimum");
  }
  Matrix plan(cost.rows, cost.cols);
  const double unit = 1 / static_cast<double>(cost.rows * row_units);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) {
      plan.at(i, j) = unit * static_cast<double>(simplex.flow(graph.arc(graph.redNode(i), graph.blueNode(j))));
    }
  }
  return plan;
}

}  // namespace

Result<Matrix> exact_transport(const Matrix& cost) {
  if (!std::all_of(cost.data.begin(), cost.data.end(), [](double x) { return std::isfinite(x); })) {
    return fail(Code::kInvalidArgument, "transport: a cost is not finite");
  }
  if (cost.rows != cost.cols) return network_transport(cost);
  Matrix gain = cost;
  for (double& x : gain.data) x = -x;
  const std::vector<std::int64_t> column_of = best_assignment(gain);
  Matrix plan(cost.rows, cost.cols);
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    plan.at(i, column_of[static_cast<std::size_t>(i)]) = 1 / static_cast<double>(cost.rows);
  }
  return plan;
}

double sharpness(const Matrix& plan) {
  double result = 0;
  for (std::int64_t j = 0; j < plan.cols; ++j) {
    double total = 0, largest = 0;
    for (std::int64_t i = 0; i < plan.rows; ++i) {
      total += plan.at(i, j);
      largest = std::max(largest, plan.at(i, j));
    }
    if (total > 0) result += largest / total;
  }
  return plan.cols == 0 ? 0 : result / static_cast<double>(plan.cols);
}

double transport_cost(const Matrix& plan, const Matrix& cost) {
  double result = 0;
  for (std::size_t i = 0; i < plan.data.size(); ++i) result += plan.data[i] * cost.data[i];
  return result;
}

}  // namespace onnxfold
