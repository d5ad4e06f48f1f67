// What the ONNX standard says about operators: schemas, shape inference, function bodies, opset conversion. No protobuf
// in this interface.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ir/model.h"

namespace onnxfold {

// Checks node attributes, arities and types against the schemas of the imported opsets, and blockwise rules that the
// schemas leave out. Unknown custom domains pass. Errors: corrupt, naming node and rule.
Status check_model(const Model& model);

// Fills in value types by ONNX shape inference (with data propagation), subgraphs included. Types already known are
// only refined, never lost, unless an inner value's declaration contradicts what its producer makes: then the
// producer is believed. One clash costs one value. Does not fail on nodes it cannot infer. Errors, if `strict`: corrupt
// when declared and inferred types clash.
Status infer_shapes(Model& model, bool strict = false);

struct OperatorInfo {
  bool known = false;
  bool deterministic = true;  // false: RandomNormal, Dropout in training...
  bool has_function_body = false;
  std::int64_t since_version = 0;  // of the schema that serves this opset
};
OperatorInfo operator_info(std::string_view domain, std::string_view op_type, std::int64_t opset);

// The operator's function body as a Function for this node (context-dependent bodies use the node's input types), with
// attribute references of the node resolved to values. Null when the operator has none; the body's opset imports are in
// it.
Result<std::unique_ptr<Function>> function_body(const Node& node);

// Raises the default-domain opset with the ONNX version converter. Weights are not copied through it.
// Errors: unsupported, naming the operator it cannot convert; invalid_argument for a version that does not exist.
Status convert_opset(Model& model, std::int64_t target);

}  // namespace onnxfold
