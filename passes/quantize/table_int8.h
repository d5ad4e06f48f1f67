// Gather(T, i) => Mul(Cast(Gather(Tq, i)), Gather(s, i)): embedding tables in int8 with one scale a row.
//
// Rows are gathered as codes and decoded after that, in standard operators of any opset, so that no runtime decodes a
// whole table at each run (as it would behind a DequantizeLinear in front of the Gather).
#pragma once

#include "passes/quantize/int8_target.h"

namespace onnxfold {

// The table that a Gather reads along rows, if quantize_tables() asks whether to take it; else null.
Value* int8_table(const Node& node);

// Tables of `graph`: constant floats [rows, columns] that Gather nodes read along rows, directly or behind Casts, of at
// least options.min_elements (1024 at least) numbers. A table that something else reads as floats stays whole, with a
// remark. Value: did anything change. Errors: invalid_argument (NaN, infinity); whatever loading a table reports.
Result<bool> quantize_tables(Graph& graph, const Int8Options& options, PassContext& context);

}  // namespace onnxfold
