#include "passes/merge/kinship.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "analysis/structure/correspondence.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kLeast = 16, kMost = 65536;
constexpr double kAlike = 0.8;

Result<std::vector<double>> first_numbers(const Tensor& tensor) {
  const std::int64_t count = std::min(tensor.size(), kMost);
  OF_ASSIGN(const Bytes all, tensor.bytes());
  const auto part = all.span().first(static_cast<std::size_t>(count * bit_width(tensor.dtype()) / 8));
  return to_doubles(Tensor::owned(tensor.dtype(), {count}, Buffer(part.begin(), part.end())));
}

// None when one of the two is all zeros, and of equal ones: frozen, or no weights at all (masks, tables of rotations).
Result<std::optional<double>> cosine(const Tensor& first, const Tensor& second) {
  OF_ASSIGN(const std::vector<double> a, first_numbers(first));
  OF_ASSIGN(const std::vector<double> b, first_numbers(second));
  if (a == b) return std::optional<double>();
  double product = 0, squares_a = 0, squares_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    squares_a += a[i] * a[i];
    squares_b += b[i] * b[i];
  }
  const double norm = std::sqrt(squares_a * squares_b);
  if (!(norm > 0) || !std::isfinite(norm)) return std::optional<double>();
  return std::optional<double>(product / norm);
}

bool counts(const Tensor& tensor) { return is_float(tensor.dtype()) && tensor.rank() >= 2 && tensor.size() >= kLeast; }

}  // namespace

Result<Kinship> kinship(const Model& model, const Model& anchor) {
  OF_ASSIGN(const Correspondence map, correspond(model.graph(), anchor.graph()));
  Kinship result;
  std::vector<double> cosines;
  for (const ConstantPair& pair : map.constants) {
    const Tensor &first = *parameter(pair.first), &second = *parameter(pair.second);
    if (!counts(first) || !counts(second) || first.dims() != second.dims()) continue;
    OF_ASSIGN(const std::optional<double> found, cosine(first, second));
    if (found) cosines.push_back(*found);
  }
  if (cosines.empty()) return result;
  result.compared = static_cast<int>(cosines.size());
  result.alike = static_cast<int>(std::count_if(cosines.begin(), cosines.end(), [](double x) { return x >= kAlike; }));
  std::sort(cosines.begin(), cosines.end());
  result.cosine = cosines[cosines.size() / 2];
  return result;
}

}  // namespace onnxfold
