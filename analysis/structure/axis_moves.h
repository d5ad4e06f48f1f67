// How labels of axes go through operators that move, join, cut, pool or reduce elements. Internal to
// analysis/structure.
#pragma once

#include "analysis/structure/axis_labels.h"

namespace onnxfold {

bool moves_axes(const Node& node);
// Sets the labels of what the node makes; axes that do not come out whole stay fixed. REQUIRES moves_axes.
void pass_moved(const Node& node, AxisLabels& axes);

}  // namespace onnxfold
