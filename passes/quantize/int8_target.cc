#include "passes/quantize/int8_target.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/match.h"
#include "passes/quantize/table_int8.h"
#include "passes/quantize/weight_source.h"

namespace onnxfold {
namespace {

bool named(const std::vector<std::string>& patterns, const Node& node, const Value& weight) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return glob_match(pattern, weight.name()) || glob_match(pattern, node.name);
  });
}

std::string refusal(const Node& node, const Value& weight, const Int8Options& options) {
  const Tensor& tensor = *constant(&weight);
  if (!quantizable_type(tensor.dtype())) return fmt::format("weight has type {}", name(tensor.dtype()));
  if (node.input(1)->dtype() != DType::kFloat32) {
    return fmt::format("integer products give float32, it multiplies {}", name(node.input(1)->dtype()));
  }
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

bool integer_form(const Node& node) { return node.is("MatMul") || node.is("Gemm") || node.is("Conv"); }

Int8Target target_of(Node& node, const WeightSource& source) {
  Int8Target target;
  target.node = &node;
  target.weight = source.weight;
  target.transposed = source.transposed;
  const bool by_rows = node.is("Conv") || (node.is("Gemm") && node.attr_int("transB", 0) != 0);
  target.axis = by_rows != source.transposed ? 0 : 1;
  target.channels = constant(source.weight)->dims()[static_cast<std::size_t>(target.axis)];
  const Tensor* bias = node.is("MatMul") ? nullptr : constant(node.input(2));
  if (bias != nullptr && bias->dims() == Dims{target.channels} && bias->dtype() == DType::kFloat32) {
    target.bias = node.input(2);
  }
  return target;
}

// Says what stays in float beside products and convolutions: tables, recurrent weights, what is added.
void name_other(const Node& node, const Int8Options& options, PassContext& context) {
  const std::int64_t min_elements = options.min_elements;
  if (options.tables && int8_table(node) != nullptr) return;
  if (const std::string already = quantized_already(node); !already.empty()) {
    context.skipped(node.label(), already);
    return;
  }
  if (const std::string why = unread_weight(node, context.model(), min_elements); !why.empty()) {
    context.skipped(node.label(), why);
  }
  if (const auto held = held_weight(node, min_elements)) {
    context.skipped(node.label(), held->moved ? kMovedWeight : fmt::format("{} has no integer form", node.op_type()),
                    held->bytes);
    return;
  }
  std::int64_t bytes = 0;
  for (const std::size_t input : weight_inputs(node)) {
    const Value* weight = weight_source(node.input(input)).weight;
    if (weight == nullptr) continue;
    const Tensor& tensor = *constant(weight);
    if (is_float(tensor.dtype()) && tensor.rank() >= 2 && tensor.size() >= min_elements) bytes += tensor.nbytes();
  }
  if (bytes == 0) return;
  const bool table = node.is("Gather") || node.is("EmbedLayerNormalization", "com.microsoft");
  context.skipped(node.label(),
                  table ? "this table has no integer form here; rtn:bits=8 stores it in 8 bits"
                        : fmt::format("{} has no integer form", node.op_type()),
                  bytes);
}

}  // namespace

Int8Options int8_options(const PassOptions& options) {
  Int8Options made;
  made.min_elements = options.integer("min-elements");
  made.limit = options.flag("reduce-range") ? 63 : 127;
  made.include = options.patterns("include");
  made.exclude = options.patterns("exclude");
  made.tables = options.flag("tables");
  return made;
}

std::vector<Int8Target> find_int8_targets(const Graph& graph, const Int8Options& options, PassContext& context) {
  std::vector<Int8Target> targets;
  for (Node* node : graph.nodes()) {
    const WeightSource source = integer_form(*node) ? weight_source(node->input(1)) : WeightSource();
    if (source.weight == nullptr || constant(node->input(0)) != nullptr) {
      name_other(*node, options, context);
      continue;
    }
    if (const std::string why = refusal(*node, *source.weight, options); !why.empty()) {
      context.skipped(node->label(), why, constant(source.weight)->nbytes());
      continue;
    }
    targets.push_back(target_of(*node, source));
  }
  return targets;
}

void name_weights(const Graph& graph, Int8Options options, const std::string& why, PassContext& context) {
  options.tables = false;
  for (const Int8Target& target : find_int8_targets(graph, options, context)) {
    context.skipped(target.node->label(), why, constant(target.weight)->nbytes());
  }
}

}  // namespace onnxfold
