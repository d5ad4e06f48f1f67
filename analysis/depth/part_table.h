// One row for each part of a model: numbers, and what one can do with them.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "analysis/structure/note.h"
#include "ir/model.h"

namespace onnxfold {

struct PartRow {
  std::string part;
  std::vector<std::pair<std::string, std::optional<double>>> numbers;  // the same names in every row of a table
  std::string use;                                                     // what one can do
};

struct PartTable {
  std::string name;                 // "attention"
  std::vector<std::string> legend;  // one line for each column
  std::vector<PartRow> rows;
  std::vector<StructureNote> notes;
};

// Each head: how far back it looks, mass on the first token, entropy, queries that look everywhere alike (Informer,
// arXiv 2012.07436; MASFormer, arXiv 2310.12442). Attentions spelled with Softmax only. Errors: the executor's.
Result<PartTable> measure_attention(const Model& model, const Dataset& data);

// The residual stream as a sum: what each addend gives to what the head reads. Share of the winning output through the
// last norm with its statistics frozen (shares sum to one without biases), loss when the addend is missing there and
// nowhere else (path ensemble, arXiv 2308.06548). Errors: unsupported without a stream of plain sums; the executor's.
Result<PartTable> measure_paths(const Model& model, const Dataset& data);

// Hidden values of feed-forward layers and channels of the stream: how many carry the activity (MoHD, arXiv
// 2412.05644). Errors: the executor's.
Result<PartTable> measure_hidden(const Model& model, const Dataset& data);

// Weights read as tables of 16 entries for each slice of 2, 4 or 8 inputs (MADDNESS): the least error that any code of
// 4 bits a slice can reach on inputs of this covariance (Gaussian rate-distortion bound, reverse water-filling).
// Errors: the executor's.
Result<PartTable> measure_lut(const Model& model, const Dataset& data);

// Depth-linearity (linearity.h) as such a table. `aligned`: the same model with neurons and heads of its layers in
// order. Errors: those of reading weights.
Result<PartTable> linearity_table(const Model& model, const Model& aligned);

}  // namespace onnxfold
