// The static type of a Value, as ONNX TypeProto states it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ir/dtype.h"

namespace onnxfold {

// One dimension: a number, a symbol, or unknown (neither). Declared values of 0 and -1 are carried as written; known()
// is the test to use before computing with `value`.
struct Dim {
  std::optional<std::int64_t> value;
  std::string symbol;
  std::string denotation;

  bool known() const { return value && *value >= 0; }
  friend bool operator==(const Dim&, const Dim&) = default;
};

struct Type {
  enum class Kind { kNone, kTensor, kSparseTensor, kSequence, kOptional, kMap, kOpaque };

  Kind kind = Kind::kNone;
  DType dtype = DType::kUndefined;        // tensor, sparse tensor: element; map: key
  std::optional<std::vector<Dim>> shape;  // nullopt: unknown rank
  std::vector<Type> inner;                // sequence, optional, map: exactly one (map: its values)
  std::string denotation;
  std::string opaque_domain, opaque_name;

  static Type none() { return {}; }
  static Type tensor(DType dtype);  // unknown rank
  static Type tensor(DType dtype, const std::vector<std::int64_t>& dims);
  static Type tensor(DType dtype, std::vector<Dim> dims);

  bool is_tensor() const { return kind == Kind::kTensor; }
  // All dims when every one is a known non-negative number.
  std::optional<std::vector<std::int64_t>> static_dims() const;
  std::optional<int> rank() const;
  friend bool operator==(const Type&, const Type&) = default;
};

// "float[N,3,?]", "seq(int64[])", "?" for none.
std::string to_string(const Type& type);

}  // namespace onnxfold
