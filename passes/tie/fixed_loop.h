// Loops and scans whose number of turns is known before they run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

struct FixedLoop {
  const Graph* body = nullptr;
  std::int64_t turns = 0;
  Value* turn = nullptr;  // inputs of the body (Loop): the number of the turn and the condition
  Value* go_on = nullptr;
  std::vector<Value*> carried_in;   // inputs of the body
  std::vector<Value*> initial;      // what the first turn reads there
  std::vector<Value*> carried_out;  // outputs of the body
  struct Scanned {
    Value* inside = nullptr;  // input of the body
    Value* whole = nullptr;   // outside
    std::int64_t axis = 0;    // of `whole`, not negative
    bool backwards = false;
  };
  std::vector<Scanned> scanned;
  struct Collected {
    Value* inside = nullptr;  // output of the body
    std::int64_t axis = 0;    // of the result; may be negative (counted with the new axis)
    bool backwards = false;
  };
  std::vector<Collected> collected;  // outputs of the node after those that are carried
};

// Describes a Loop or Scan node. Errors: unsupported, saying why the number of turns is not known or the form is not
// handled (conditions that are computed, Scan of opset 8, unknown ranks).
Result<FixedLoop> fixed_loop(const Node& node);

}  // namespace onnxfold
