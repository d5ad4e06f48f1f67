#include "analysis/structure/axis_labels.h"

#include <algorithm>

#include "analysis/structure/correspondence.h"

namespace onnxfold {

std::vector<std::int64_t> dims_of(const Value& value) {
  if (const Tensor* tensor = parameter(&value)) return tensor->dims();
  std::vector<std::int64_t> dims;
  if (!value.type().shape) return dims;
  for (const Dim& dim : *value.type().shape) dims.push_back(dim.known() ? *dim.value : -1);
  return dims;
}

int AxisLabels::fresh(std::int64_t size) {
  parents_.push_back(static_cast<int>(parents_.size()));
  flags_.push_back({size, false, false, false});
  return parents_.back();
}

int AxisLabels::root(int label) const {
  while (parents_[static_cast<std::size_t>(label)] != label) label = parents_[static_cast<std::size_t>(label)];
  return label;
}

void AxisLabels::fix_label(int label) {
  if (label != kFixed) flags(label).fixed = true;
}

void AxisLabels::give_up(const Node& node) {
  for (const Value* input : node.inputs()) {
    if (input != nullptr) fix(*input);
  }
  for (const Graph* body : node.subgraphs()) {
    for (const Node* inner : body->nodes()) give_up(*inner);
  }
}

void AxisLabels::pointwise(const Labels& labels) {
  for (const int label : labels) {
    if (label != kFixed) flags(label).pointwise = true;
  }
}

void AxisLabels::centred(int label) {
  if (label != kFixed) flags(label).centred = true;
}

int AxisLabels::join(int a, int b) {
  if (a == kFixed || b == kFixed) {
    fix_label(a);
    fix_label(b);
    return kFixed;
  }
  a = root(a);
  b = root(b);
  if (a == b) return a;
  if (a > b) std::swap(a, b);
  Flags& x = flags_[static_cast<std::size_t>(a)];
  const Flags& y = flags_[static_cast<std::size_t>(b)];
  x.fixed = x.fixed || y.fixed || x.size != y.size;
  x.pointwise = x.pointwise || y.pointwise;
  x.centred = x.centred || y.centred;
  parents_[static_cast<std::size_t>(b)] = a;
  return a;
}

void AxisLabels::join_if_sized(int small, int label) {
  if (small != kFixed) {
    join(small, label);
  } else {
    pointwise({label});
  }
}

Labels& AxisLabels::labels(const Value& value) {
  const auto known = labels_.find(&value);
  if (known != labels_.end()) return known->second;
  Labels made;
  const Tensor* tensor = parameter(&value);
  if (tensor != nullptr && is_float(tensor->dtype())) {
    for (const std::int64_t dim : tensor->dims()) made.push_back(dim > 1 ? fresh(dim) : kFixed);
    order_.push_back(&value);
  } else {
    made.assign(dims_of(value).size(), kFixed);
  }
  return labels_[&value] = std::move(made);
}

void AxisLabels::fix(const Value& value) {
  for (const int label : labels(value)) fix_label(label);
}

void AxisLabels::set(const Value* value, Labels made) {
  if (value == nullptr) return;
  made.resize(dims_of(*value).size(), kFixed);
  if (labels_.emplace(value, std::move(made)).second) order_.push_back(value);
}

void AxisLabels::add_places(bool constants, std::map<int, std::size_t>& place, std::vector<AxisGroup>& groups) {
  for (const Value* value : order_) {
    if ((parameter(value) != nullptr) != constants) continue;
    const Labels& own = labels_.at(value);
    for (std::size_t axis = 0; axis < own.size(); ++axis) {
      if (own[axis] == kFixed || flags(own[axis]).fixed) continue;
      const int label = root(own[axis]);
      if (constants && place.emplace(label, groups.size()).second) {
        const Flags& flag = flags(label);
        groups.push_back({flag.size, flag.pointwise, flag.centred, {}, {}});
      }
      const auto found = place.find(label);
      if (found == place.end()) continue;
      AxisGroup& group = groups[found->second];
      (constants ? group.constants : group.values).push_back({const_cast<Value*>(value), static_cast<int>(axis)});
    }
  }
}

std::vector<AxisGroup> AxisLabels::groups() {
  std::vector<AxisGroup> groups;
  std::map<int, std::size_t> place;
  add_places(true, place, groups);
  add_places(false, place, groups);
  // An axis that only one place has leads nowhere: it was not understood.
  std::erase_if(groups, [](const AxisGroup& group) { return group.constants.size() < 2; });
  return groups;
}

}  // namespace onnxfold
