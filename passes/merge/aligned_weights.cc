#include "passes/merge/aligned_weights.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {

Matrix columns_along(const Weight& weight, int axis) {
  std::int64_t outer = 1, inner = 1;
  const auto at = static_cast<std::size_t>(axis);
  for (std::size_t i = 0; i < weight.dims.size(); ++i) (i < at ? outer : inner) *= i == at ? 1 : weight.dims[i];
  const std::int64_t size = weight.dims[at];
  Matrix result(outer * inner, size);
  for (std::int64_t i = 0; i < outer; ++i) {
    for (std::int64_t j = 0; j < size; ++j) {
      for (std::int64_t k = 0; k < inner; ++k) {
        result.at(i * inner + k, j) = weight.data[static_cast<std::size_t>((i * size + j) * inner + k)];
      }
    }
  }
  return result;
}

AlignedWeights::AlignedWeights(const Correspondence& map, const std::vector<const Value*>& kept)
    : pairs_(map.constants) {
  for (const ConstantPair& pair : pairs_) own_[pair.second] = pair.first;
  for (const Value* value : kept) kept_[value] = true;
}

Result<Weight> AlignedWeights::own(const Value& constant) const {
  const auto found = own_.find(&constant);
  if (found == own_.end()) return fail(Code::kInternal, "'" + constant.name() + "' has no partner");
  return weight_of(*found->second);
}

Status AlignedWeights::map(const Value& constant, int axis, const Matrix& map) {
  return this->map(constant, {{axis, map}});
}

Status AlignedWeights::map(const Value& constant, const std::vector<std::pair<int, Matrix>>& maps) {
  OF_ASSIGN(Weight weight, own(constant));
  for (const auto& [axis, matrix] : maps) {
    if (weight.dims[static_cast<std::size_t>(axis)] != matrix.rows) {
      return fail(Code::kInvalidArgument,
                  fmt::format("axis {} of '{}' has {} neurons and {} are transported", axis, constant.name(),
                              weight.dims[static_cast<std::size_t>(axis)], matrix.rows));
    }
    weight = mapped(weight, axis, matrix);
  }
  return add(constant, std::move(weight));
}

Status AlignedWeights::set(const Linear& linear, const Matrix& weight_and_bias) {
  const Tensor& tensor = *parameter(linear.weight);
  const std::int64_t in = weight_and_bias.rows - 1, out = weight_and_bias.cols;
  if (in != linear.in || out != linear.out) {
    return fail(Code::kInvalidArgument,
                fmt::format("weight '{}' is [{}] and would need neurons transported that have to stay in their places",
                            linear.weight->name(), fmt::join(tensor.dims(), ",")));
  }
  Matrix weight(in, out);
  std::copy_n(weight_and_bias.data.begin(), weight.data.size(), weight.data.begin());
  if (linear.alpha != 1) {
    for (double& x : weight.data) x /= linear.alpha;
  }
  if (linear.stored_out_in) weight = transposed(weight);
  OF_TRY(add(*linear.weight, {tensor.dims(), std::move(weight.data)}));
  if (linear.bias == nullptr) return {};
  std::vector<double> bias(weight_and_bias.data.end() - out, weight_and_bias.data.end());
  if (linear.beta != 1) {
    for (double& x : bias) x /= linear.beta;
  }
  const Dims& dims = parameter(linear.bias)->dims();
  return add(*linear.bias, {dims, std::move(bias)});
}

Status AlignedWeights::add(const Value& constant, Weight weight) {
  Sum& entry = made_[&constant];
  if (entry.count++ == 0) {
    entry.weight = std::move(weight);
    return {};
  }
  for (std::size_t i = 0; i < weight.data.size(); ++i) {
    double& mean = entry.weight.data[i];
    entry.differs = entry.differs || mean != weight.data[i];
    mean += (weight.data[i] - mean) / entry.count;
  }
  return {};
}

Result<std::unique_ptr<Model>> AlignedWeights::written(const Model& anchor) const {
  std::unique_ptr<Model> result = anchor.clone();
  for (const ConstantPair& pair : pairs_) {
    const Tensor& theirs = *parameter(pair.second);
    const Tensor& own = *parameter(pair.first);
    if (!is_float(theirs.dtype()) || kept_.count(pair.second) != 0) continue;
    const auto made = made_.find(pair.second);
    if (made == made_.end() && own.dims() == theirs.dims()) {
      OF_ASSIGN(const Weight weight, weight_of(*pair.first));
      OF_ASSIGN(Tensor tensor, from_doubles(theirs.dtype(), theirs.dims(), weight.data));
      replace_constant(*result->graph().find(pair.second->name()), std::move(tensor));
      continue;
    }
    const bool fits = made != made_.end() && made->second.weight.data.size() == static_cast<std::size_t>(theirs.size());
    if (!fits) {
      return fail(
          Code::kInvalidArgument,
          fmt::format("weight '{}' is [{}] and '{}' is [{}]: its neurons lead to something that was not understood",
                      pair.first->name(), fmt::join(own.dims(), ","), pair.second->name(),
                      fmt::join(theirs.dims(), ",")));
    }
    OF_ASSIGN(Tensor tensor, from_doubles(theirs.dtype(), theirs.dims(), made->second.weight.data));
    replace_constant(*result->graph().find(pair.second->name()), std::move(tensor));
  }
  return result;
}

std::vector<std::string> AlignedWeights::notes() const {
  std::vector<std::string> notes;
  for (const ConstantPair& pair : pairs_) {
    const auto made = made_.find(pair.second);
    if (made == made_.end() || !made->second.differs) continue;
    notes.push_back(fmt::format("'{}' is read in {} places that map it differently: the mean is taken",
                                pair.second->name(), made->second.count));
  }
  return notes;
}

}  // namespace onnxfold
