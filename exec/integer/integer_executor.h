// IntegerExecutor: runs models whose numbers are codes times powers of two (pass bct) with integer arithmetic.
//
// A value is an array of integers with an exponent each: QuantizeLinear shifts and rounds, DequantizeLinear with scales
// that are powers of two only says what the exponents are, products add integers in blocks, sums align by shifts,
// tables are read by codes. Nothing is rounded but by QuantizeLinear and Div. What has no integer form runs in float32
// and is counted. As long as no sum exceeds 2^24 steps of its finest addend, float32 computes exactly the same numbers.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/executor.h"

namespace onnxfold {

struct IntegerCounts {
  std::int64_t integer = 0;                    // nodes that computed with integers
  std::map<std::string, std::int64_t> floats;  // nodes on data that computed with floats, by operator
  std::int64_t largest_sum = 0;                // in steps of the finest addend; below 2^24 float32 is exact
  std::string where;                           // label of the node with the largest sum
  std::map<std::string, std::int64_t> beyond;  // largest sums of 2^24 steps and more, by label of the node
};

class IntegerExecutor {
 public:
  // Errors: as Executor::create. REQUIRES that the model outlives the executor unchanged.
  static Result<std::unique_ptr<IntegerExecutor>> create(const Model& model, std::vector<std::string> taps = {});
  ~IntegerExecutor();

  // Errors: as Executor::run. `counts`, when given, is added to.
  Result<RunResult> run(const Feeds& feeds, IntegerCounts* counts = nullptr) const;

 private:
  struct State;
  explicit IntegerExecutor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace onnxfold
