// Conv(Pad(x, p), W) => Conv<pads + p>(x, W)
// AveragePool(Pad(x, p)) => AveragePool<pads + p, count_include_pad = 1>(x)
//
// Pad of constant zeros, along spatial axes only and not negative; it has no other reader. auto_pad is NOTSET (or
// VALID). An AveragePool must have no pads of its own or count them, not round its size up, and have a kernel larger
// than the pads. Exact.
#include <algorithm>

#include "passes/cleanup/shapes.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// Pads as [begin..., end...] over all `rank` axes; nullopt unless they are constant zeros.
std::optional<std::vector<std::int64_t>> zero_pads(const Node& pad, std::size_t rank) {
  if (pad.attr_string("mode", "constant") != "constant") return std::nullopt;
  if (pad.opset() < 11) {
    if (pad.attr_float("value", 0.0F) != 0.0F) return std::nullopt;
    return pad.attr_ints("pads");
  }
  if (pad.input(2) != nullptr && scalar_constant(pad.input(2)) != 0.0) return std::nullopt;
  const auto given = int_constants(pad.input(1));
  if (!given || pad.input(3) == nullptr) return given;
  const auto axes = int_constants(pad.input(3));
  if (!axes || given->size() != 2 * axes->size()) return std::nullopt;
  std::vector<std::int64_t> all(2 * rank, 0);
  for (std::size_t i = 0; i < axes->size(); ++i) {
    const std::int64_t axis = (*axes)[i] < 0 ? (*axes)[i] + static_cast<std::int64_t>(rank) : (*axes)[i];
    if (axis < 0 || axis >= static_cast<std::int64_t>(rank)) return std::nullopt;
    all[static_cast<std::size_t>(axis)] += (*given)[i];
    all[static_cast<std::size_t>(axis) + rank] += (*given)[i + axes->size()];
  }
  return all;
}

bool counts_pads(const Node& pool, const std::vector<std::int64_t>& own) {
  if (pool.opset() < 7 || pool.attr_int("ceil_mode", 0) != 0) return false;
  return pool.attr_int("count_include_pad", 0) != 0 ||
         std::all_of(own.begin(), own.end(), [](std::int64_t pad) { return pad == 0; });
}

// Runtimes refuse pools whose window may lie in the padding alone.
bool smaller_than_kernel(const std::vector<std::int64_t>& pads, const Node& pool) {
  const auto kernel = pool.attr_ints("kernel_shape");
  if (!kernel || pads.size() != 2 * kernel->size()) return false;
  for (std::size_t i = 0; i < pads.size(); ++i) {
    if (pads[i] >= (*kernel)[i % kernel->size()]) return false;
  }
  return true;
}

bool fuse(Graph& graph, Node& node) {
  Node* pad = sole_producer(node.input(0), "Pad");
  if (pad == nullptr || pad->graph() != &graph || !pad->input(0)->rank()) return false;
  const auto rank = static_cast<std::size_t>(*pad->input(0)->rank());
  const std::string auto_pad = node.attr_string("auto_pad", "NOTSET");
  if (rank < 3 || (auto_pad != "NOTSET" && auto_pad != "VALID" && !auto_pad.empty())) return false;
  const auto added = zero_pads(*pad, rank);
  const std::size_t spatial = rank - 2;
  if (!added || added->size() != 2 * rank) return false;
  std::vector<std::int64_t> pads = node.attr_ints("pads").value_or(std::vector<std::int64_t>(2 * spatial, 0));
  if (pads.size() != 2 * spatial || (node.is("AveragePool") && !counts_pads(node, pads))) return false;
  for (std::size_t i = 0; i < 2 * rank; ++i) {
    const std::size_t axis = i % rank;
    if ((*added)[i] < 0 || (axis < 2 && (*added)[i] != 0)) return false;
    if (axis >= 2) pads[(i / rank) * spatial + axis - 2] += (*added)[i];
  }
  if (node.is("AveragePool") && !smaller_than_kernel(pads, node)) return false;
  graph.set_input(node, 0, pad->input(0));
  node.set_attribute("pads", pads);
  node.remove_attribute("auto_pad");
  if (node.is("AveragePool")) node.set_attribute("count_include_pad", std::int64_t{1});
  erase_with_dead_inputs(graph, *pad);
  return true;
}

class FusePad final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (!node->erased() && (node->is("Conv") || node->is("AveragePool")) && fuse(graph, *node)) changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_fuse_pad(const PassOptions&) { return std::make_unique<FusePad>(); }

}  // namespace onnxfold
