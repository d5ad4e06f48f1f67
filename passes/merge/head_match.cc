#include "passes/merge/head_match.h"

#include <algorithm>
#include <cmath>

namespace onnxfold {
namespace {

class Match {
 public:
  Match(const Similarity& similarity, std::int64_t first, std::int64_t second, std::int64_t width)
      : similarity_(similarity), first_(first), second_(second), width_(width) {}

  Result<HeadMatch> run(const std::vector<HeadPart>& parts, const TransportSolver& solve) {
    result_.map = Matrix(width_, width_);
    std::vector<char> placed(static_cast<std::size_t>(width_), 0);
    for (const HeadPart& part : parts) {
      for (const std::int64_t element : part.elements) placed[static_cast<std::size_t>(element)] = 1;
      if (part.freedom == HeadFreedom::kSign || part.freedom == HeadFreedom::kPhase) {
        turn(part);
      } else {
        OF_TRY(transport(part.elements, solve));
      }
    }
    for (std::int64_t i = 0; i < width_; ++i) {
      if (placed[static_cast<std::size_t>(i)] != 0) continue;
      result_.map.at(i, i) = 1;
      result_.squares += squared(i, i);
    }
    return std::move(result_);
  }

 private:
  double squared(std::int64_t i, std::int64_t j) const {
    const double both = similarity_.first[static_cast<std::size_t>(first_ + i)] +
                        similarity_.second[static_cast<std::size_t>(second_ + j)];
    return std::max(both - 2 * similarity_.values.at(first_ + i, second_ + j), 0.0);
  }

  // Lengths of single elements change when a pair turns, that of the pair does not.
  void turn(const HeadPart& part) {
    const Matrix& products = similarity_.products.empty() ? similarity_.values : similarity_.products;
    const auto size = static_cast<std::int64_t>(part.elements.size());
    Matrix cross(size, size);
    double length = 0;
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t from = first_ + part.elements[static_cast<std::size_t>(i)];
      const std::int64_t own = second_ + part.elements[static_cast<std::size_t>(i)];
      length += length_of(similarity_.first_squares, similarity_.first, from) +
                length_of(similarity_.second_squares, similarity_.second, own);
      for (std::int64_t j = 0; j < size; ++j) {
        cross.at(i, j) = products.at(from, second_ + part.elements[static_cast<std::size_t>(j)]);
      }
    }
    HeadPart inner{part.freedom, {}};
    for (std::int64_t i = 0; i < size; ++i) inner.elements.push_back(i);
    const Matrix map = best_head_map(cross, {inner});
    double reached = 0;
    for (std::size_t i = 0; i < map.data.size(); ++i) reached += map.data[i] * cross.data[i];
    if (length > 0) result_.squares += 2 * static_cast<double>(size) * std::max(1 - 2 * reached / length, 0.0);
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t j = 0; j < size; ++j) {
        result_.map.at(part.elements[static_cast<std::size_t>(i)], part.elements[static_cast<std::size_t>(j)]) =
            map.at(i, j);
      }
    }
  }
  static double length_of(const std::vector<double>& squares, const std::vector<char>& says, std::int64_t at) {
    const auto index = static_cast<std::size_t>(at);
    return squares.empty() ? static_cast<double>(says[index]) : squares[index];
  }

  Status transport(const std::vector<std::int64_t>& elements, const TransportSolver& solve) {
    const auto size = static_cast<std::int64_t>(elements.size());
    Matrix cost(size, size);
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t j = 0; j < size; ++j) {
        cost.at(i, j) =
            std::sqrt(squared(elements[static_cast<std::size_t>(i)], elements[static_cast<std::size_t>(j)])) / 2;
      }
    }
    OF_ASSIGN(const Matrix plan, solve(cost));
    for (std::int64_t i = 0; i < size; ++i) {
      for (std::int64_t j = 0; j < size; ++j) {
        const std::int64_t from = elements[static_cast<std::size_t>(i)], to = elements[static_cast<std::size_t>(j)];
        result_.map.at(from, to) = static_cast<double>(size) * plan.at(i, j);
        result_.squares += result_.map.at(from, to) * squared(from, to);
      }
    }
    return {};
  }

  const Similarity& similarity_;
  std::int64_t first_, second_, width_;
  HeadMatch result_;
};

}  // namespace

Result<HeadMatch> match_head(const Similarity& similarity, const std::vector<HeadPart>& parts, std::int64_t a,
                             std::int64_t b, std::int64_t width, const TransportSolver& solve) {
  return Match(similarity, a * width, b * width, width).run(parts, solve);
}

}  // namespace onnxfold
