// QuantizeLinear and DequantizeLinear around values, in uint8 with one scale a value.
#pragma once

#include <map>
#include <string>

#include "ir/graph.h"
#include "passes/quantize/activation_range.h"
#include "passes/quantize/integer_flow.h"

namespace onnxfold {

class QdqPairs {
 public:
  // `grids`: by value name.
  QdqPairs(Graph& graph, std::map<std::string, Uint8Grid> grids) : graph_(graph), grids_(std::move(grids)) {}

  bool known(const Value& value) const { return grids_.contains(value.name()); }
  // `value` rounded to uint8 and back, for `reader`, in front of it; once for all who ask. A constant becomes codes.
  // REQUIRES: a constant, or known(value), or a result of this class.
  Value* read(Value& value, const Node& reader);
  // The scale behind a value that read() gave.
  float scale_of(const Value& decoded) const { return made_.at(&decoded).grid.scale; }
  // Everything that reads `result` reads it rounded. Inside `range` no code lies beyond it, so that runtimes see that a
  // Clip in front does nothing more. REQUIRES: known(result).
  void round_result(Value& result, const std::optional<ClipRange>& range);
  // The same with scale and zero point of `source`, which read() gave.
  void round_result_as(Value& result, const Value& source);

 private:
  struct Scale {
    Uint8Grid grid;
    Value *scale = nullptr, *zero = nullptr;
  };
  Scale add_scale(const std::string& name, const Uint8Grid& grid);
  Value* add_pair(Value& value, const Scale& scale, const Node* before);
  Value* add_codes(Value& value, const Node& reader);
  void replace(Value& result, const Scale& scale);

  Graph& graph_;
  std::map<std::string, Uint8Grid> grids_;
  std::map<const Value*, Value*> read_;  // value to its rounded form; looked up only
  std::map<const Value*, Scale> made_;   // by rounded form; looked up only
};

}  // namespace onnxfold
