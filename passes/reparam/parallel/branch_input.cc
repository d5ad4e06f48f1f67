#include "passes/reparam/parallel/branch_input.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool same_constant(const Value* a, const Value* b) {
  if (a == b) return true;
  const Tensor *x = constant(a), *y = constant(b);
  if (x == nullptr || y == nullptr) return false;
  const auto left = x->content_hash(), right = y->content_hash();
  return left && right && *left == *right;
}

Result<Value*> ones_like(Graph& graph, const Value& gain) {
  const Tensor& tensor = *gain.constant();
  const std::vector<double> ones(static_cast<std::size_t>(tensor.size()), 1.0);
  OF_ASSIGN(Tensor made, from_doubles(tensor.dtype(), tensor.dims(), ones));
  return graph.add_initializer(gain.name() + "_plain", std::move(made));
}

// The operator once more with a gain of ones.
Result<Value*> plain_operator(Graph& graph, const Norm& norm) {
  Node& node = *norm.last();
  OF_ASSIGN(Value * ones, ones_like(graph, *norm.gain));
  NodeSpec spec{node.op_type(), {node.input(0), ones}, {}, {}, node.domain(), ""};
  spec.outputs.push_back({norm.output->name() + "_plain", norm.output->type()});
  Node* made = graph.insert(std::move(spec), &node);
  for (const char* integer : {"axis", "stash_type"}) {
    if (node.attribute(integer) != nullptr) made->set_attribute(integer, node.attr_int(integer, 0));
  }
  if (node.attribute("epsilon") != nullptr) made->set_attribute("epsilon", node.attr_float("epsilon", 0));
  return made->output();
}

}  // namespace

BranchInput BranchInputs::of(Value* value) const {
  for (const Norm& norm : norms_) {
    if (norm.output == value) return {value, norm};
  }
  return {value, std::nullopt};
}

bool same_input(const BranchInput& a, const BranchInput& b) {
  if (a.value == b.value) return true;
  return a.norm && b.norm && input_conflict(a, b).empty() && same_constant(a.norm->gain, b.norm->gain) &&
         same_constant(a.norm->bias, b.norm->bias);
}

std::string input_conflict(const BranchInput& a, const BranchInput& b) {
  if (a.value == b.value) return {};
  if (a.stream() != b.stream() || a.norm.has_value() != b.norm.has_value()) return "it reads another value";
  if (!a.norm) return {};
  if (a.norm->kind != b.norm->kind) return "its norm is of another kind";
  if (a.norm->epsilon != b.norm->epsilon) return "its norm has another epsilon";
  if (a.norm->width != b.norm->width || a.norm->width == 0) return "the width of its norm is not known";
  for (const Norm* norm : {&*a.norm, &*b.norm}) {
    if (norm->skip != nullptr) return "its norm adds two values";
    for (const Value* part : {norm->gain, norm->bias}) {
      if (part != nullptr && (constant(part) == nullptr || constant(part)->size() != norm->width))
        return "the gain or bias of its norm is not one number per channel";
    }
    if (norm->fused && norm->gain == nullptr) return "its norm has no gain";
  }
  return {};
}

Status fold_affine(const Norm& norm, Matrix& weight, std::vector<double>& bias) {
  if (norm.bias != nullptr) {
    OF_ASSIGN(const std::vector<double> shift, to_doubles(*norm.bias->constant()));
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      for (std::int64_t col = 0; col < weight.cols; ++col)
        bias[static_cast<std::size_t>(col)] += shift[static_cast<std::size_t>(row)] * weight.at(row, col);
    }
  }
  if (norm.gain != nullptr) {
    OF_ASSIGN(const std::vector<double> gain, to_doubles(*norm.gain->constant()));
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      for (std::int64_t col = 0; col < weight.cols; ++col) weight.at(row, col) *= gain[static_cast<std::size_t>(row)];
    }
  }
  return {};
}

Result<Value*> plain_norm(Graph& graph, const Norm& norm) {
  if (norm.fused) return plain_operator(graph, norm);
  Value* value = norm.output;
  for (const Value* part : {norm.bias, norm.gain}) {
    if (part == nullptr) continue;
    Node* node = value->producer();
    while (node->is("Cast") || node->is("Identity")) node = (value = node->input(0))->producer();
    value = node->input(behind_identity(node->input(0)) == part ? 1 : 0);
  }
  return value;
}

}  // namespace onnxfold
