// A named attribute of a node.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "ir/tensor.h"
#include "ir/type.h"

namespace onnxfold {

class Graph;

// Coordinates and values of a sparse tensor, carried unchanged (SparseTensorProto).
struct SparseTensor {
  Tensor values;
  Tensor indices;
  Dims dims;
  std::string values_name, indices_name;
};

// The name of an attribute of the enclosing function whose value is used here (AttributeProto.ref_attr_name).
struct AttributeReference {
  std::string name;
  std::int32_t type = 0;  // AttributeProto.AttributeType
};

using AttributeValue =
    std::variant<float, std::int64_t, std::string, Tensor, std::unique_ptr<Graph>, SparseTensor, Type,
                 std::vector<float>, std::vector<std::int64_t>, std::vector<std::string>, std::vector<Tensor>,
                 std::vector<std::unique_ptr<Graph>>, std::vector<SparseTensor>, std::vector<Type>, AttributeReference>;

struct Attribute {
  std::string name;
  AttributeValue value;
  std::string doc_string;
  std::string tensor_name;  // of the TensorProto inside, when it had one

  Attribute(std::string name, AttributeValue value);
  ~Attribute();
  Attribute(Attribute&&) noexcept;
  Attribute& operator=(Attribute&&) noexcept;

  // For the plain kinds; graphs are copied by Graph::clone. REQUIRES: holds no graph.
  Attribute copy() const;
};

}  // namespace onnxfold
