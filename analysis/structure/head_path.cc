#include "analysis/structure/head_path.h"

#include <algorithm>

#include "analysis/structure/projection.h"
#include "analysis/structure/region.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 24;

}  // namespace

HeadPaths::HeadPaths(const Graph& graph) : context_(std::make_unique<StructureContext>(graph)) {}
HeadPaths::~HeadPaths() = default;

ShapeArithmetic& HeadPaths::numbers() { return context_->numbers; }

std::optional<HeadPath> HeadPaths::to_product(const Projection& projection) {
  const ProjectionPath traced = trace_projection(projection.operand, *context_);
  const Projection& found = traced.projection;
  if (!found.linear || !operand_layout(traced, *context_)) return {};
  HeadPath path;
  path.first = HeadLayout::of(*found.source, found.linear->out);
  std::vector<Node*> inner = found.nodes;
  for (const ProjectionStep& step : traced.steps) std::erase(inner, step.node);
  for (const ProjectionStep& step : traced.steps) {
    HeadStep next{step.node, step.output, !step.passes, {}, path.last(), {}};
    const auto after =
        step.passes ? std::optional(next.before) : layout_after(next.before, *step.node, *step.output, numbers());
    if (!after) return {};
    next.after = *after;
    path.steps.push_back(std::move(next));
  }
  // Inner nodes belong to the first step after them.
  for (HeadStep& step : path.steps) {
    for (Node* node : inner) {
      if (node->graph()->before(*node, *step.node)) step.inner.push_back(node);
    }
    for (const Node* node : step.inner) std::erase(inner, node);
  }
  return path;
}

std::optional<Projection> HeadPaths::projection(Value* operand, int feature_axis) {
  const ProjectionPath traced = trace_projection(operand, *context_);
  const auto layout = operand_layout(traced, *context_);
  const auto columns = layout ? head_columns(*layout, feature_axis) : std::nullopt;
  if (!columns) return {};
  Projection projection = traced.projection;
  set_columns(projection, *columns);
  return projection;
}

bool HeadPaths::find_output(Attention& attention) {
  Value* at = attention.context;
  for (int i = 0; i < kMaxSteps; ++i) {
    Node* node = data_reader(at);
    if (node == nullptr || node->output() == nullptr) return false;
    const auto linear = linear_at(*node);
    if (linear && linear->input == at) {
      attention.out = linear;
      const auto path = to_output(attention);
      if (!path || path->last().axes.empty()) return false;
      // All columns in order on the last axis.
      std::int64_t stride = 1;
      const auto& last = path->last().axes.back();
      for (auto factor = last.rbegin(); factor != last.rend(); ++factor) {
        if (!factor->channel || factor->stride != stride) return false;
        stride *= factor->size;
      }
      return stride == linear->in;
    }
    if (!moves_elements(*node) && !node->is("Cast") && !node->is("Dropout")) return false;
    attention.nodes.push_back(node);
    at = node->output();
  }
  return false;
}

std::optional<HeadPath> HeadPaths::to_output(const Attention& attention) {
  if (!attention.out) return {};
  const ProjectionPath traced = trace_projection(attention.q.operand, *context_);
  const auto q = operand_layout(traced, *context_);
  if (!q) return {};
  HeadPath path;
  // Operators with heads side by side on the last axis give them back there.
  const bool flat = attention.fused != nullptr && q->axes.size() == 3;
  path.first = flat ? HeadLayout::of(*attention.context, attention.heads * attention.v.width)
                    : context_layout(*q, attention.v.width);
  Value* at = attention.context;
  for (int i = 0; i < kMaxSteps && at != attention.out->input; ++i) {
    context_->numbers.refine(at, channel_extents(path.last()));
    Node* node = data_reader(at);
    if (node == nullptr || node->output() == nullptr) return {};
    HeadStep next{node, node->output(), moves_elements(*node), {}, path.last(), {}};
    const auto after =
        next.moves ? layout_after(next.before, *node, *next.output, numbers()) : std::optional(next.before);
    if (!after) return {};
    next.after = *after;
    at = next.output;
    path.steps.push_back(std::move(next));
  }
  if (at != attention.out->input) return {};
  return path;
}

}  // namespace onnxfold
