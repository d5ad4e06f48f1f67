#include "analysis/depth/bypass.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

bool same_type(const Value& a, const Value& b) {
  if (a.dtype() != b.dtype() && a.dtype() != DType::kUndefined && b.dtype() != DType::kUndefined) return false;
  if (!a.rank() || !b.rank()) return true;
  if (*a.rank() != *b.rank()) return false;
  const auto& x = *a.type().shape;
  const auto& y = *b.type().shape;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i].known() && y[i].known() && *x[i].value != *y[i].value) return false;
  }
  return true;
}

bool is_skip_norm(const Node* node) {
  return node != nullptr && (node->is("SkipLayerNormalization", "com.microsoft") ||
                             node->is("SkipSimplifiedLayerNormalization", "com.microsoft"));
}

std::string part_name(StreamUnit::Part part, std::size_t block) {
  switch (part) {
    case StreamUnit::Part::kAttention:
      return fmt::format("attention of block {}", block);
    case StreamUnit::Part::kFeedForward:
      return fmt::format("feed-forward layer of block {}", block);
    default:
      return fmt::format("block {}", block);
  }
}

bool is_part(const Sublayer& sublayer, StreamUnit::Part part) {
  return part == StreamUnit::Part::kAttention ? sublayer.kind == Sublayer::Kind::kAttention && !sublayer.cross
                                              : sublayer.kind == Sublayer::Kind::kFeedForward;
}

// The norm that alone reads the sum of a post-norm block's sublayer.
const Norm* norm_after(const Value& sum, const std::vector<Norm>& norms) {
  for (const Norm& norm : norms) {
    if (norm.input != &sum) continue;
    const bool alone = std::all_of(sum.uses().begin(), sum.uses().end(), [&](const Use& use) {
      return use.node != nullptr && std::find(norm.nodes.begin(), norm.nodes.end(), use.node) != norm.nodes.end();
    });
    return alone ? &norm : nullptr;
  }
  return nullptr;
}

// Empty: it can go; else why not.
std::string sublayer_unit(const Block& block, const Sublayer& sublayer, const std::vector<Norm>& norms,
                          StreamUnit& unit) {
  for (const Sublayer& other : block.sublayers) {
    if (&other != &sublayer && other.add == sublayer.add) return "it shares its Add with another sublayer";
  }
  unit.before = sublayer.stream;
  unit.nodes = sublayer.nodes;
  unit.nodes.push_back(sublayer.add);
  const bool post = block.kind == Block::Kind::kPostNorm;
  if (is_skip_norm(sublayer.add)) {
    unit.after = post ? sublayer.add->output() : sublayer.add->output(3);
    return unit.after == nullptr ? "the stream after it is not kept" : "";
  }
  unit.after = sublayer.add->output();
  const Norm* norm = post && unit.after != nullptr ? norm_after(*unit.after, norms) : nullptr;
  if (norm != nullptr) unit.after = norm->output;
  return unit.after == nullptr ? "the stream after it is not kept" : "";
}

}  // namespace

std::vector<StreamUnit> removable_units(const Graph& graph, const BlockView& view, StreamUnit::Part part,
                                        std::vector<StructureNote>* notes) {
  std::vector<StreamUnit> units;
  const std::vector<Norm> norms = part == StreamUnit::Part::kBlock ? std::vector<Norm>() : find_norms(graph);
  const auto keep = [&](StreamUnit unit, std::string problem) {
    if (problem.empty() && (unit.before == nullptr || unit.after == nullptr))
      problem = "the stream after it is not kept";
    if (problem.empty() && !same_type(*unit.before, *unit.after)) problem = "it changes the shape of the stream";
    if (problem.empty() && unit.before == unit.after) problem = "it adds nothing";
    if (problem.empty()) {
      units.push_back(std::move(unit));
    } else if (notes != nullptr) {
      notes->push_back({unit.label, std::move(problem)});
    }
  };
  for (std::size_t i = 0; i < view.blocks.size(); ++i) {
    const Block& block = view.blocks[i];
    StreamUnit unit;
    unit.part = part;
    unit.block = i;
    unit.label = part_name(part, i);
    if (part == StreamUnit::Part::kBlock) {
      unit.before = block.input;
      unit.after = block.output;
      unit.nodes = block.nodes;
      keep(unit, "");
      continue;
    }
    for (const Sublayer& sublayer : block.sublayers) {
      if (!is_part(sublayer, part)) continue;
      StreamUnit one = unit;
      std::string problem = sublayer_unit(block, sublayer, norms, one);
      keep(std::move(one), std::move(problem));
    }
  }
  return units;
}

namespace {

// SkipLayerNormalization(input, skip, gain, ...) gave the sum and its norm: what is left of it is the norm.
Status keep_norm(Graph& graph, Node& skip, Value& stream) {
  const bool rms = skip.is("SkipSimplifiedLayerNormalization", "com.microsoft");
  if (!rms && graph.opset() < 17) {
    return fail(Code::kUnsupported,
                fmt::format("'{}' is norm and Add in one; the norm alone needs opset 17", skip.label()));
  }
  NodeSpec spec;
  spec.op_type = rms ? "SimplifiedLayerNormalization" : "LayerNormalization";
  spec.inputs = {&stream, skip.input(2)};
  if (!rms && skip.input(3) != nullptr) spec.inputs.push_back(skip.input(3));
  spec.attributes.emplace_back("axis", std::int64_t{-1});
  spec.attributes.emplace_back("epsilon", skip.attr_float("epsilon", rms ? 1e-6F : 1e-5F));
  if (rms) spec.attributes.emplace_back("stash_type", std::int64_t{1});
  spec.outputs = {{skip.output()->name() + "_norm", skip.output()->type(), false}};
  Node* norm = graph.insert(std::move(spec), &skip);
  graph.replace_all_uses(*skip.output(), *norm->output());
  return {};
}

}  // namespace

Status bypass(Graph& graph, const StreamUnit& unit) {
  Node* producer = unit.after->producer();
  const bool sum_of_skip = is_skip_norm(producer) && unit.after->output_index() == 3;
  if (sum_of_skip && producer->output() != nullptr && !producer->output()->uses().empty()) {
    OF_TRY(keep_norm(graph, *producer, *unit.before));
  }
  Value* stream = unit.before;
  if (unit.after->is_graph_output()) {  // the stream's own name stays what it is
    NodeSpec spec;
    spec.op_type = "Identity";
    spec.inputs = {stream};
    spec.outputs = {{unit.after->name() + "_kept", unit.after->type(), false}};
    stream = graph.insert(std::move(spec), producer)->output();
  }
  graph.replace_all_uses(*unit.after, *stream);
  return {};
}

StreamUnit unit_in(const Graph& copy, const StreamUnit& unit) {
  StreamUnit same = unit;
  same.before = copy.find(unit.before->name());
  same.after = copy.find(unit.after->name());
  same.nodes.clear();
  return same;
}

}  // namespace onnxfold
