// Constants of a graph that can be stored in blocks: weights, tables and parameters, by what their readers do with
// them.
#pragma once

#include <string>
#include <vector>

#include "ir/graph.h"
#include "passes/pass.h"
#include "passes/quantize/bct/bct_writer.h"
#include "passes/quantize/bct/shift_blocks.h"

namespace onnxfold {

enum class ConstantRole {
  kWeight,     // of products, convolutions and recurrent layers
  kTable,      // embeddings: read by Gather, or added position by position
  kParameter,  // biases, gains and other numbers of element-wise operators
};

struct BlockedConstant {
  Value* value = nullptr;
  ConstantRole role = ConstantRole::kParameter;
  std::int64_t axis = 0;  // along which blocks run: what a product sums over, the last one otherwise
  bool joined = false;    // all axes from `axis` on in one
};

// The float32 constants of one graph whose readers are all known. Those that are not get a remark with the reason;
// scalars do not.
std::vector<BlockedConstant> find_blocked_constants(const Graph& graph, PassContext& context);

// Puts codes and exponents in the place of a constant. Constants too small for the nodes that decode them keep their
// float32 storage and only take values of the grid. Errors: those of quantizing.
struct StoredConstant {
  Value* value = nullptr;  // what readers see now
  std::int64_t bytes = 0;
};
Result<StoredConstant> store_in_blocks(BctWriter& writer, const BlockedConstant& constant, const ShiftFormat& format);

// Bytes that it would need.
std::int64_t stored_bytes(const BlockedConstant& constant, const ShiftFormat& format);

}  // namespace onnxfold
