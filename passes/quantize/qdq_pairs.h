// QuantizeLinear and DequantizeLinear around values, in uint8 with one scale a value.
#pragma once

#include <map>

#include "ir/graph.h"
#include "passes/quantize/integer_flow.h"

namespace onnxfold {

class QdqPairs {
 public:
  QdqPairs(Graph& graph, GridsByName grids) : graph_(graph), grids_(std::move(grids)) {}

  const GridsByName& grids() const { return grids_; }
  bool known(const Value& value) const { return grids_.contains(value.name()); }
  // `value` rounded to uint8 and back, for `reader`, in front of it; once for all who ask. A constant becomes codes.
  // REQUIRES: a constant, or known(value), or a result of this class.
  Value* read(Value& value, const Node& reader);
  // The scale behind a value that read() gave.
  float scale_of(const Value& decoded) const { return made_.at(&decoded).grid.scale; }
  // Everything that reads `result.end` reads it rounded. A Relu or Clip stays where nothing else was taken in, and no
  // code lies beyond it, so that runtimes see that it does nothing; else all that was taken in goes.
  // REQUIRES: known(*result.end); rounded_grids() gives grids.
  void round_result(Value& value, const RoundedResult& result);
  // The same with scale and zero point of `source`, which read() gave.
  void round_result_as(Value& result, const Value& source);

 private:
  struct Scale {
    Uint8Grid grid;
    Value *scale = nullptr, *zero = nullptr;
  };
  Scale add_scale(const std::string& name, const Uint8Grid& grid);
  // Rounded with one scale; read with the other, as `end`.
  Value* add_pair(Value& value, const Scale& written, const Value& end, const Scale& read, const Node* before);
  Value* add_codes(Value& value, const Node& reader);
  bool replace(Value& value, const Scale& written, Value& end, const Scale& read);

  Graph& graph_;
  GridsByName grids_;
  std::map<const Value*, Value*> read_;  // value to its rounded form; looked up only
  std::map<const Value*, Scale> made_;   // by rounded form; looked up only
};

}  // namespace onnxfold
