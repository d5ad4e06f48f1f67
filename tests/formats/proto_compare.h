// Are two ONNX files the same model?
#pragma once

#include <onnx/onnx_pb.h>

#include <string>

namespace onnxfold::test {

// Empty when equal up to the order of attributes, initializers, value_info and imports, the field a tensor's elements
// are stored in, "ai.onnx" for "", and value_info that repeats an initializer or Constant or names nothing. IR version
// may only rise. Otherwise the differences.
std::string proto_difference(onnx::ModelProto expected, onnx::ModelProto actual);

}  // namespace onnxfold::test
