#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "analysis/structure/blocks.h"
#include "converter/inspect.h"
#include "converter/report.h"
#include "formats/onnx/schema.h"

namespace onnxfold {
namespace {

// Width of the experts inside com.microsoft MoE: the weights of all are [experts, .., ..], one of the two the stream's.
std::int64_t fused_expert_width(const Node& node) {
  const Tensor* weight = node.input(2) == nullptr ? nullptr : node.input(2)->constant();
  const auto& shape = node.input(0)->type().shape;
  if (weight == nullptr || weight->rank() != 3 || !shape || shape->empty() || !shape->back().known()) return 0;
  const std::int64_t width = *shape->back().value, rows = weight->dims()[1], columns = weight->dims()[2];
  if ((rows == width) == (columns == width)) return rows == width ? width : 0;
  const std::int64_t made = rows == width ? columns : rows;
  return node.attr_string("activation_type", "relu") == "swiglu" ? made / 2 : made;  // gate and up in one
}

// The feed-forward layers inside a mixture: as many of one width as there are experts, and what is over is shared.
void inspect_experts(const Sublayer& sublayer, const std::vector<FeedForward>& layers, InspectedSublayer& result) {
  result.experts = sublayer.mixture->experts;
  result.chosen = sublayer.mixture->chosen;
  std::map<std::int64_t, std::int64_t> widths;
  for (const FeedForward& layer : layers) {
    if (std::find(sublayer.nodes.begin(), sublayer.nodes.end(), layer.down.product) != sublayer.nodes.end())
      ++widths[layer.hidden];
  }
  const Node& router = *sublayer.mixture->router;
  const bool fused = router.is("MoE", "com.microsoft");
  if (fused) {
    result.hidden = fused_expert_width(router);
    if (result.experts == 0 && result.hidden > 0) result.experts = router.input(2)->constant()->dims()[0];
  }
  for (auto& [width, count] : widths) {
    if (fused || result.hidden > 0 || count < result.experts) continue;
    result.hidden = width;
    count -= result.experts;
  }
  for (const auto& [width, count] : widths) {
    if (count <= 0 || (!fused && result.hidden == 0)) continue;
    result.shared_experts += count;
    result.shared_hidden = width;
  }
}

InspectedSublayer inspect_sublayer(const Sublayer& sublayer, const std::vector<FeedForward>& layers) {
  InspectedSublayer result;
  result.kind = name(sublayer.kind);
  if (sublayer.attention) {
    if (sublayer.cross) result.kind = "cross attention";
    result.heads = sublayer.attention->heads;
    result.kv_heads = sublayer.attention->kv_heads;
    result.head_width = sublayer.attention->head_width;
    result.rotary = sublayer.attention->rotary;
    result.causal = sublayer.attention->causal;
  }
  if (sublayer.feed_forward) {
    if (sublayer.feed_forward->gated()) result.kind = "gated feed-forward";
    result.hidden = sublayer.feed_forward->hidden;
  }
  if (sublayer.mixture) inspect_experts(sublayer, layers, result);
  return result;
}

// What a column says of all sublayers that have something to say: "4", or "4+4".
template <typename Field>
std::string column(const InspectedBlock& block, Field field) {
  std::string text;
  for (const InspectedSublayer& sublayer : block.sublayers) {
    if (field(sublayer) > 0) text += fmt::format("{}{}", text.empty() ? "" : "+", field(sublayer));
  }
  return text.empty() ? "-" : text;
}

std::string kinds(const InspectedBlock& block) {
  std::string text;
  for (const InspectedSublayer& sublayer : block.sublayers) {
    text += (text.empty() ? "" : ", ") + sublayer.kind;
    if (sublayer.experts > 0) text += fmt::format(" ({} of {})", sublayer.chosen, sublayer.experts);
    if (sublayer.shared_experts == 1) text += fmt::format(" + shared expert ({})", sublayer.shared_hidden);
    if (sublayer.shared_experts > 1)
      text += fmt::format(" + {} shared experts ({})", sublayer.shared_experts, sublayer.shared_hidden);
  }
  return text;
}

}  // namespace

InspectedStructure inspect_structure(Model& model) {
  InspectedStructure structure;
  // What cannot be inferred stays unknown: the view works with the types it has.
  if (const Status inferred = infer_shapes(model); !inferred) {
    structure.notes.emplace_back("the model", "types could not be inferred: " + inferred.error().message);
  }
  for (const Graph* graph : model.graphs()) {
    const BlockView view = find_blocks(*graph);
    const std::vector<FeedForward> layers = find_feed_forwards(*graph);
    for (const Block& block : view.blocks) {
      InspectedBlock row;
      row.kind = name(block.kind);
      row.stream = block.stream;
      row.width = block.width;
      row.parameters = block.parameters();
      row.bytes = block.weight_bytes();
      row.input = block.input->name();
      row.output = block.output != nullptr ? block.output->name() : "";
      for (const Sublayer& sublayer : block.sublayers) row.sublayers.push_back(inspect_sublayer(sublayer, layers));
      structure.blocks.push_back(std::move(row));
    }
    for (const StructureNote& note : view.notes) structure.notes.emplace_back(note.node, note.reason);
  }
  return structure;
}

std::string structure_text(const InspectedStructure& structure, std::int64_t weight_bytes) {
  std::string text;
  constexpr const char* kRow = "{:<10}  {:>5}  {:>6}  {:<13}  {:>6}  {:>7}  {:>7}  {:>7}  {:>9}  {:>10}  {:>6}  {}\n";
  if (!structure.blocks.empty()) {
    text += fmt::format(fmt::runtime(kRow), "blocks", "block", "stream", "kind", "width", "heads", "kv", "head",
                        "hidden", "parameters", "share", "layers");
  }
  for (std::size_t i = 0; i < structure.blocks.size(); ++i) {
    const InspectedBlock& block = structure.blocks[i];
    const double share = weight_bytes == 0 ? 0 : static_cast<double>(block.bytes) / static_cast<double>(weight_bytes);
    text += fmt::format(fmt::runtime(kRow), "", i, block.stream, block.kind, block.width,
                        column(block, [](const auto& s) { return s.heads; }),
                        column(block, [](const auto& s) { return s.kv_heads; }),
                        column(block, [](const auto& s) { return s.head_width; }),
                        column(block, [](const auto& s) { return s.hidden; }), block.parameters,
                        fmt::format("{:.1f} %", 100 * share), kinds(block));
  }
  std::int64_t inside = 0;
  for (const InspectedBlock& block : structure.blocks) inside += block.bytes;
  if (structure.blocks.empty() && weight_bytes > 0) {
    text += fmt::format("{:<12}none: no result is added back to what it was computed from\n", "blocks");
  } else if (inside < weight_bytes) {  // embeddings, heads, what lies between streams
    text += fmt::format("{:<12}{} of weights ({:.1f} %)\n", "outside", bytes_text(weight_bytes - inside),
                        100 * static_cast<double>(weight_bytes - inside) / static_cast<double>(weight_bytes));
  }
  for (const auto& [node, reason] : structure.notes) text += fmt::format("{:<12}{}: {}\n", "not seen", node, reason);
  return text;
}

}  // namespace onnxfold
