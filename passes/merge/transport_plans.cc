#include "passes/merge/transport_plans.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "analysis/align/transport.h"
#include "analysis/calibrate/dataset.h"

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
        heads_(site.first_heads, site.second_heads),
        options_(options) {}

  // What it costs to take a head for another.
  Result<Matrix> head_costs() {
    for (std::int64_t a = 0; a < heads_.rows; ++a) {
      for (std::int64_t b = 0; b < heads_.cols; ++b) {
        const Matrix cost = block(cost_, a * rows_, b * cols_, rows_, cols_);
        if (site_.whole_heads) {
          heads_.at(a, b) = distance_in_place(cost);
          continue;
        }
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
            const double inside = site_.whole_heads ? (i == j ? 1 / static_cast<double>(rows_) : 0)
                                                    : inner_[static_cast<std::size_t>(a * heads.cols + b)].at(i, j);
            whole.at(a * rows_ + i, b * cols_ + j) = heads.at(a, b) * inside;
          }
        }
      }
    }
    return described(std::move(whole), similarity_, cost_);
  }

 private:
  static double distance_in_place(const Matrix& cost) {
    double squares = 0;
    for (std::int64_t i = 0; i < cost.rows; ++i) squares += cost.at(i, i) * cost.at(i, i);
    return std::sqrt(squares / static_cast<double>(cost.rows));
  }

  const TransportSite& site_;
  const Similarity& similarity_;
  Matrix cost_;
  std::int64_t rows_, cols_;
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

namespace {

Matrix chosen(const Matrix& rows, const std::vector<std::int64_t>& columns) {
  if (columns.empty()) return rows;
  Matrix result(rows.rows, static_cast<std::int64_t>(columns.size()));
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    for (std::int64_t j = 0; j < result.cols; ++j) result.at(i, j) = rows.at(i, columns[static_cast<std::size_t>(j)]);
  }
  return result;
}

void append_columns(Matrix& whole, const Matrix& part) {
  if (whole.empty()) {
    whole = part;
    return;
  }
  Matrix result(whole.rows, whole.cols + part.cols);
  for (std::int64_t i = 0; i < whole.rows; ++i) {
    std::copy_n(whole.data.begin() + i * whole.cols, whole.cols, result.data.begin() + i * result.cols);
    std::copy_n(part.data.begin() + i * part.cols, part.cols, result.data.begin() + i * result.cols + whole.cols);
  }
  whole = std::move(result);
}

// Rows of tapped values of one batch, each made once.
class BatchRows {
 public:
  BatchRows(const Taps& taps, const RowMask& mask) : taps_(taps), mask_(mask) {}
  // `position`: only that one on axis 1, where the data has no padding.
  Result<const Matrix*> of(const Value& value, int axis, std::optional<std::int64_t> position = {}) {
    const Datum& datum = taps_.at(value.name());
    const bool one = position && mask_.keep.empty() && datum.is_array() && datum.array.rank() == 3;
    const std::tuple key(&value, axis, one ? *position : -1);
    const auto known = rows_.find(key);
    if (known != rows_.end()) return &known->second;
    OF_ASSIGN(Matrix rows, rows_of(datum, mask_, axis));
    if (one) rows = every(rows, datum.array.dim(1), *position);
    return &rows_.emplace(key, std::move(rows)).first->second;
  }

 private:
  static Matrix every(const Matrix& rows, std::int64_t step, std::int64_t first) {
    Matrix result(0, rows.cols);
    for (std::int64_t i = first; i < rows.rows; i += step, ++result.rows) {
      const auto row = rows.data.begin() + i * rows.cols;
      result.data.insert(result.data.end(), row, row + rows.cols);
    }
    return result;
  }

  const Taps& taps_;
  const RowMask& mask_;
  std::map<std::tuple<const Value*, int, std::int64_t>, Matrix> rows_;
};

Status add_batch(const TransportSite& site, BatchRows& first, BatchRows& second, CrossStatistics& statistics) {
  Matrix all_x, all_y;
  for (const SitePart& part : site.parts) {
    OF_ASSIGN(const Matrix* const whole_x, first.of(*part.first, part.axis, part.position));
    OF_ASSIGN(const Matrix* const whole_y, second.of(*part.second, part.axis, part.position));
    if (whole_x->rows != whole_y->rows) {
      return fail(Code::kInvalidArgument, "'" + site.name + "' has different numbers of positions in the models");
    }
    if (part.first_columns.empty() && !site.joint) {
      statistics.add(*whole_x, *whole_y);
      continue;
    }
    const Matrix x = chosen(*whole_x, part.first_columns), y = chosen(*whole_y, part.second_columns);
    if (site.joint) {
      append_columns(all_x, x);
      append_columns(all_y, y);
    } else {
      statistics.add(x, y);
    }
  }
  if (site.joint) statistics.add(all_x, all_y);
  return {};
}

}  // namespace

Result<ActivationFeatures> activation_features(const Model& model, const Model& anchor,
                                               const std::vector<TransportSite>& sites,
                                               const std::map<const Value*, int>& joins,
                                               const TransportOptions& options) {
  std::map<std::string, char> one, two;
  if (options.activations) {
    for (const TransportSite& site : sites) {
      for (const SitePart& part : site.parts) {
        one[part.first->name()] = 1;
        two[part.second->name()] = 1;
      }
    }
  }
  for (const auto& entry : joins) two[entry.first->name()] = 1;
  std::vector<std::string> first, second;
  for (const auto& entry : one) first.push_back(entry.first);
  for (const auto& entry : two) second.push_back(entry.first);
  std::vector<CrossStatistics> statistics(sites.size());
  std::map<const Value*, Moments> moments;
  const auto visit = [&](std::size_t, const Taps& a, const Taps& b, const RowMask& mask) -> Status {
    BatchRows first_rows(a, mask), second_rows(b, mask);
    for (std::size_t i = 0; i < sites.size() && options.activations; ++i) {
      OF_TRY(add_batch(sites[i], first_rows, second_rows, statistics[i]));
    }
    for (const auto& entry : joins) {
      OF_ASSIGN(const Matrix* const rows, second_rows.of(*entry.first, entry.second));
      moments[entry.first].add(*rows);
    }
    return {};
  };
  OF_TRY(for_each_batch(model, first, anchor, second, *options.data, visit));
  ActivationFeatures result;
  for (const CrossStatistics& each : statistics) {
    result.similarities.push_back(options.activations ? similarity_of(each) : Similarity());
  }
  for (auto& entry : moments) {
    std::vector<double> mean = entry.second.sum_abs;
    for (double& x : mean) x /= static_cast<double>(std::max<std::int64_t>(entry.second.rows, 1));
    result.magnitudes[entry.first] = std::move(mean);
  }
  return result;
}

}  // namespace onnxfold
