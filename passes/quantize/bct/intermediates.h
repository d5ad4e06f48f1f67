// Intermediate results of a model: which values are rounded, on which grid, and what is a table instead of a function.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/structure/norm.h"
#include "ir/graph.h"
#include "passes/quantize/bct/bct_writer.h"
#include "passes/quantize/bct/shift_blocks.h"

namespace onnxfold {

// A function of one number: an operator, or the chain that spells it.
struct FunctionSite {
  Value* input = nullptr;
  Value* output = nullptr;
  std::vector<Node*> nodes;  // in topological order; other inputs are constants
};

struct SoftmaxSite {
  Node* node = nullptr;
  std::int64_t axis = -1;
};

// What of a graph is rounded.
struct IntermediateSites {
  std::vector<Value*> rounded;                // in topological order
  std::map<const Value*, std::int64_t> axis;  // of those whose channels are not last
  std::vector<FunctionSite> functions;
  std::vector<Norm> norms;
  std::vector<SoftmaxSite> softmaxes;
};

// Values of the main graph that arithmetic makes from data and that are no accumulator on its way to the next
// operator: neither a product before its bias, nor a score before its Softmax, nor inside a function or norm.
IntermediateSites find_intermediates(const Graph& graph);

// Does the operator hand on its input's numbers (or zero) without computing new ones?
bool only_moves(const Node& node);

// What data say about the values.
struct NormRanges {
  double sum = 0, mean = 0,
         sum_squares = 0;         // largest magnitudes: of a row's sum, its mean, its sum of squared deviations
  std::vector<double> deviation;  // by channel: largest |x - mean|
};
struct IntermediateRanges {
  std::map<const Value*, Grid> grids;        // of the values that were seen and are finite
  std::map<const Value*, NormRanges> norms;  // by the norm's input
};

struct GridOptions {
  int bits = 8;
  std::int64_t block = 64;  // channels that share an exponent
  bool refine = true;       // smaller exponents where the squared error on the data falls
  int function_bits = 8;    // of the values that tables read
  int stream_bits = 12;     // at least; of the residual stream: what norms read, and the addends of sums that they read
  int result_bits = 12;     // at least; of what functions and norms give
};

// Two runs over the data. Errors: those of the executor.
Result<IntermediateRanges> see_intermediates(const Model& model, const Dataset& data, const IntermediateSites& sites,
                                             const GridOptions& options);

// The exponent of each channel from the largest magnitude of each channel: one for each block of `block` channels.
std::vector<std::int8_t> block_exponents(const std::vector<double>& largest, std::int64_t block, int limit);

}  // namespace onnxfold
