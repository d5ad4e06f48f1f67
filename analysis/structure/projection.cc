#include "analysis/structure/projection.h"

#include <algorithm>

#include "analysis/structure/region.h"
#include "analysis/structure/rotary.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 60;

class Tracer {
 public:
  Tracer(Value* operand, StructureContext& context) : context_(context), at_(operand) {
    path_.projection.operand = operand;
  }

  ProjectionPath run() {
    for (int i = 0; i < kMaxSteps && !finished(); ++i) {
      if (!step()) break;
    }
    Projection& projection = path_.projection;
    projection.source = at_;
    if (!projection.linear && path_.problem.empty()) {
      path_.problem = at_->producer() != nullptr ? "no Linear before " + at_->producer()->label()
                                                 : "no Linear before '" + at_->name() + "'";
    }
    std::reverse(path_.steps.begin(), path_.steps.end());
    sort_nodes(projection.nodes);
    return std::move(path_);
  }

 private:
  bool finished() {
    path_.projection.linear = linear_making(at_);
    return path_.projection.linear.has_value();
  }

  bool step() {
    Node* node = at_->producer();
    if (node == nullptr) return false;
    if (moves_elements(*node)) return move(*node);
    if (step_norm()) return true;  // its last node may be a Cast
    if (node->is("Cast") || node->is("Dropout")) return pass({node}, node->input(0));
    Value* data = nullptr;
    if (const auto factor = scalar_factor(*node, context_.numbers, data)) {
      if (path_.projection.scale) *path_.projection.scale *= *factor;
      return pass({node}, data);
    }
    if (step_unknown_scale(*node)) return true;
    return step_rotary() || step_cache(*node);
  }

  bool move(Node& node) {
    if (step_rotary()) return true;
    if (node.input(0) == nullptr) return false;
    path_.steps.push_back({&node, at_, false});
    path_.projection.nodes.push_back(&node);
    at_ = node.input(0);
    return true;
  }

  bool pass(const std::vector<Node*>& nodes, Value* before) {
    if (before == nullptr) return false;
    path_.steps.push_back({nodes.back(), at_, true});
    path_.projection.nodes.insert(path_.projection.nodes.end(), nodes.begin(), nodes.end());
    at_ = before;
    return true;
  }

  // A factor computed from dimensions that are not known.
  bool step_unknown_scale(Node& node) {
    if (!node.is("Mul") && !node.is("Div")) return false;
    for (std::size_t i = 0; i < (node.is("Mul") ? 2U : 1U); ++i) {
      const auto other = context_.numbers.elements(node.input(1 - i));
      if (!other || other->size() != 1) continue;
      path_.projection.scale.reset();
      return pass({&node}, node.input(i));
    }
    return false;
  }

  bool step_norm() {
    const auto norm = context_.norms_by_output.find(at_);
    if (norm == context_.norms_by_output.end() || path_.projection.norm || norm->second.skip != nullptr) return false;
    path_.projection.norm = norm->second;
    return pass(norm->second.nodes, norm->second.input);
  }

  bool step_rotary() {
    if (path_.projection.rotary) return false;
    const auto rotary = rotary_making(at_);
    if (!rotary) return false;
    path_.projection.rotary = true;
    path_.projection.tables = rotary->tables;
    return pass(rotary->nodes, rotary->source);
  }

  // Concat of what a graph input (through moves and casts) brings and the new keys or values, in either order.
  bool step_cache(Node& node) {
    if (!node.is("Concat") || node.inputs().size() != 2 || path_.projection.past != nullptr) return false;
    for (std::size_t i = 0; i < 2; ++i) {
      Value* past = node.input(i);
      for (int depth = 0; past != nullptr && past->producer() != nullptr && depth < 6; ++depth) {
        const Node& before = *past->producer();  // Concat of one: a cache that was empty until now
        const bool one = before.is("Concat") && before.inputs().size() == 1;
        if (!moves_elements(before) && !before.is("Cast") && !one) break;
        past = past->producer()->input(0);
      }
      if (past == nullptr || !past->is_graph_input()) continue;
      path_.projection.past = past;
      path_.projection.present = at_;
      return pass({&node}, node.input(1 - i));
    }
    return false;
  }

  StructureContext& context_;
  Value* at_;
  ProjectionPath path_;
};

// Of a source that is no Linear: its last axis, or axis 1 after a convolution.
std::optional<HeadLayout> opaque_layout(const Value& source) {
  if (!source.rank() || *source.rank() < 2) return {};
  const Node* node = source.producer();
  const bool conv = node != nullptr && (node->is("Conv") || node->is("BatchNormalization"));
  const Dim& dim = conv ? (*source.type().shape)[1] : source.type().shape->back();
  if (!dim.known()) return {};
  return HeadLayout::of(source, *dim.value, conv ? 1 : -1);
}

}  // namespace

StructureContext::StructureContext(const Graph& graph) {
  for (Norm& norm : find_norms(graph)) {
    norms_by_input.emplace(norm.input, norm);
    norms_by_output.emplace(norm.output, std::move(norm));
  }
}

std::optional<double> scalar_factor(const Node& node, ShapeArithmetic& numbers, Value*& data) {
  if (!node.is("Mul") && !node.is("Div")) return {};
  for (std::size_t i = node.is("Div") ? 1 : 0; i < 2; ++i) {
    const auto factor = numbers.scalar(node.input(i));
    if (!factor || *factor == 0) continue;
    data = node.input(1 - i);
    return node.is("Div") ? 1 / *factor : *factor;
  }
  return {};
}

ProjectionPath trace_projection(Value* operand, StructureContext& context) { return Tracer(operand, context).run(); }

std::optional<HeadLayout> operand_layout(const ProjectionPath& path, StructureContext& context) {
  const Projection& projection = path.projection;
  std::optional<HeadLayout> layout = projection.linear ? HeadLayout::of(*projection.source, projection.linear->out)
                                                       : opaque_layout(*projection.source);
  for (const ProjectionStep& step : path.steps) {
    if (!layout) return {};
    if (!step.passes) layout = layout_after(*layout, *step.node, *step.output, context.numbers);
    if (layout) context.numbers.refine(step.output, channel_extents(*layout));
  }
  return layout;
}

void set_columns(Projection& projection, const HeadColumns& columns) {
  projection.offset = columns.offset;
  projection.heads = columns.heads;
  projection.head_stride = columns.heads == 1 ? columns.width : columns.head_stride;
  projection.width = columns.width;
  projection.element_stride = columns.element_stride;
  projection.repeats = columns.repeats;
}

}  // namespace onnxfold
