#include "passes/merge/residual_policy.h"

#include <numeric>

namespace onnxfold {
namespace {

std::vector<double> shares_of_stream(ResidualPolicy policy, const JoinMagnitudes& magnitudes, std::int64_t width) {
  std::vector<double> shares(static_cast<std::size_t>(width), 0.5);
  if (policy == ResidualPolicy::kMean) return shares;
  const std::vector<double>& stream = magnitudes.stream;
  const std::vector<double>& branch = magnitudes.branch;
  if (stream.size() != shares.size() || branch.size() != shares.size()) return shares;
  if (policy == ResidualPolicy::kWeightedScalar) {
    const double r = std::accumulate(stream.begin(), stream.end(), 0.0);
    const double b = std::accumulate(branch.begin(), branch.end(), 0.0);
    if (r + b > 0) shares.assign(shares.size(), r / (r + b));
    return shares;
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (stream[i] + branch[i] > 0) shares[i] = stream[i] / (stream[i] + branch[i]);
  }
  return shares;
}

}  // namespace

Result<TransportMap> joined_map(const TransportMap& stream, const TransportMap& branch, ResidualPolicy policy,
                                const JoinMagnitudes& magnitudes) {
  if (stream == branch && policy != ResidualPolicy::kIdentity) return stream;
  if (policy == ResidualPolicy::kNoResidual) return branch;
  if (policy == ResidualPolicy::kOnlyResidual) return stream;
  const Matrix& shape = stream != nullptr ? *stream : *branch;
  const bool stays = stream == nullptr || branch == nullptr || policy == ResidualPolicy::kIdentity;
  if (stays && shape.rows != shape.cols) {
    return fail(Code::kInvalidArgument, "neurons cannot stay where they are: the models' widths differ");
  }
  if (policy == ResidualPolicy::kIdentity) return TransportMap();
  const Matrix r = stream != nullptr ? *stream : identity_matrix(shape.rows);
  const Matrix b = branch != nullptr ? *branch : identity_matrix(shape.rows);
  const std::vector<double> shares = shares_of_stream(policy, magnitudes, shape.cols);
  Matrix result(shape.rows, shape.cols);
  for (std::int64_t i = 0; i < shape.rows; ++i) {
    for (std::int64_t j = 0; j < shape.cols; ++j) {
      const double share = shares[static_cast<std::size_t>(j)];
      // Equal maps stay the same bits.
      result.at(i, j) = b.at(i, j) + share * (r.at(i, j) - b.at(i, j));
    }
  }
  return std::make_shared<const Matrix>(std::move(result));
}

}  // namespace onnxfold
