// Walking from an operand of attention back to the Linear that makes it. Internal to analysis/structure.
#pragma once

#include <map>
#include <string>
#include <variant>

#include "analysis/structure/attention.h"
#include "analysis/structure/head_layout.h"

namespace onnxfold {

// What the matchers of one graph share.
struct StructureContext {
  explicit StructureContext(const Graph& graph);
  ShapeArithmetic numbers;
  std::map<const Value*, Norm> norms_by_output, norms_by_input;
};

// One operator (or rotary chain, or norm) on the way from the Linear to the operand.
struct ProjectionStep {
  Node* node = nullptr;  // moves elements when `passes` is false
  Value* output = nullptr;
  bool passes = false;  // the layout stays as it is
};

struct ProjectionPath {
  Projection projection;              // operand, linear, source, norm, rotary, scale, cache, nodes
  std::vector<ProjectionStep> steps;  // from the Linear to the operand
  std::string problem;                // empty when the source is a Linear
};

ProjectionPath trace_projection(Value* operand, StructureContext& context);
// The layout at the operand; nullopt when columns cannot be followed. `columns` overrides the Linear's width.
std::optional<HeadLayout> operand_layout(const ProjectionPath& path, StructureContext& context);
// Copies what the layout says into the projection.
void set_columns(Projection& projection, const HeadColumns& columns);
// A factor when `node` multiplies or divides by a known scalar; `data` is the other operand.
std::optional<double> scalar_factor(const Node& node, ShapeArithmetic& numbers, Value*& data);

}  // namespace onnxfold
