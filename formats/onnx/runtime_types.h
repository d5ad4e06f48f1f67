// Types and shapes of ONNX Runtime's own operators. Internal to the format: onnx headers in its interface.
#pragma once

#include <onnx/defs/schema.h>

namespace onnxfold::onnx_proto {

// The standard's schemas and, beside them, rules for operators of com.microsoft (and SimplifiedLayerNormalization,
// which ONNX Runtime has in the standard domain), so that inference does not end at every fused node. Source of the
// rules: the operator documentation of ONNX Runtime 1.2x. For inference alone: nodes are not checked against them.
const onnx::ISchemaRegistry& schemas_with_runtime();

}  // namespace onnxfold::onnx_proto
