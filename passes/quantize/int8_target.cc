#include "passes/quantize/int8_target.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool named(const std::vector<std::string>& patterns, const Node& node, const Value& weight) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return glob_match(pattern, weight.name()) || glob_match(pattern, node.name);
  });
}

std::string refusal(const Node& node, const Value& weight, const Int8Options& options) {
  const Tensor& tensor = *constant(&weight);
  if (tensor.dtype() != DType::kFloat32) return fmt::format("weight has type {}", name(tensor.dtype()));
  if (node.is("MatMul") && tensor.rank() != 2) return fmt::format("weight has rank {}, need 2", tensor.rank());
  if (node.is("Gemm")) {
    if (node.attr_int("transA", 0) != 0) return "transA is set";
    if (node.attr_float("alpha", 1) != 1 || node.attr_float("beta", 1) != 1) return "alpha or beta is not 1";
  }
  if (!options.include.empty() && !named(options.include, node, weight)) return "excluded by name";
  if (named(options.exclude, node, weight)) return "excluded by name";
  if (tensor.size() < options.min_elements) return fmt::format("fewer than {} elements", options.min_elements);
  if (tensor.size() == 0) return "weight is empty";
  return {};
}

}  // namespace

Int8Options int8_options(const PassOptions& options) {
  Int8Options made;
  made.min_elements = options.integer("min-elements");
  made.limit = options.flag("reduce-range") ? 63 : 127;
  made.include = options.patterns("include");
  made.exclude = options.patterns("exclude");
  return made;
}

std::vector<Int8Target> find_int8_targets(const Graph& graph, const Int8Options& options, PassContext& context) {
  std::vector<Int8Target> targets;
  for (Node* node : graph.nodes()) {
    if (!node->is("MatMul") && !node->is("Gemm") && !node->is("Conv")) continue;
    Int8Target target;
    target.node = node;
    target.weight = node->input(1);
    if (constant(target.weight) == nullptr || constant(node->input(0)) != nullptr) continue;
    const Tensor& tensor = *constant(target.weight);
    if (const std::string why = refusal(*node, *target.weight, options); !why.empty()) {
      context.skipped(node->label(), why, tensor.nbytes());
      continue;
    }
    const bool by_rows = node->is("Conv") || (node->is("Gemm") && node->attr_int("transB", 0) != 0);
    target.axis = by_rows ? 0 : 1;
    target.channels = tensor.dims()[static_cast<std::size_t>(target.axis)];
    const Tensor* bias = node->is("MatMul") ? nullptr : constant(node->input(2));
    if (bias != nullptr && bias->dims() == Dims{target.channels} && bias->dtype() == DType::kFloat32) {
      target.bias = node->input(2);
    }
    targets.push_back(target);
  }
  return targets;
}

}  // namespace onnxfold
