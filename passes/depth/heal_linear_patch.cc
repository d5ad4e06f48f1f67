#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/statistics.h"
#include "passes/depth/heal.h"

namespace onnxfold {
namespace {

// Orthonormal and symmetric: Hadamard matrices of the largest power of two that divides the width, along the diagonal.
Matrix block_hadamard(std::int64_t width) {
  std::int64_t block = 1;
  while (width % (block * 2) == 0) block *= 2;
  Matrix h(width, width);
  const double scale = 1 / std::sqrt(static_cast<double>(block));
  for (std::int64_t start = 0; start < width; start += block) {
    for (std::int64_t i = 0; i < block; ++i) {
      for (std::int64_t j = 0; j < block; ++j) {
        h.at(start + i, start + j) = __builtin_parityll(static_cast<unsigned long long>(i & j)) != 0 ? -scale : scale;
      }
    }
  }
  return h;
}

Result<std::vector<double>> magnitudes(const Gap& gap, const Model& model, const Recording& recorded,
                                       const std::string& name, const Matrix& basis) {
  Moments moments;
  for (std::size_t i = 0; i < gap.data.batches.size(); ++i) {
    const RowMask mask = row_mask(model, gap.data.batches[i]);
    OF_ASSIGN(const Matrix rows, rows_of(recorded.batches[i].at(name), mask));
    if (rows.cols != basis.rows) return std::vector<double>();
    moments.add(product(rows, basis));
  }
  return moments.sum_abs;
}

}  // namespace

Result<HealNotes> heal_linear_patch(const Gap& gap) {
  Graph& graph = gap.student.graph();
  Value* stream = graph.find(gap.stream);
  const Datum& sample = gap.student_values.batches.at(0).at(gap.stream);
  if (stream->producer() == nullptr || !sample.is_array() || sample.array.rank() < 2 || sample.array.rank() > 3) {
    return HealNotes{"the stream is no sequence of rows"};
  }
  const std::int64_t width = sample.array.dim(-1);
  const Matrix basis = block_hadamard(width);
  OF_ASSIGN(const auto have, magnitudes(gap, gap.student, gap.student_values, gap.stream, basis));
  OF_ASSIGN(const auto want, magnitudes(gap, gap.teacher, gap.teacher_values, gap.wanted, basis));
  if (have.empty() || want.size() != have.size()) return HealNotes{"the stream changes its width"};
  Matrix scaled = basis;
  for (std::int64_t row = 0; row < width; ++row) {
    for (std::int64_t col = 0; col < width; ++col) {
      const auto k = static_cast<std::size_t>(col);
      scaled.at(row, col) *= have[k] > 0 ? want[k] / have[k] : 1;
    }
  }
  OF_ASSIGN(Tensor patch, from_doubles(stream->dtype(), {width, width}, product(scaled, basis, false, true).data));
  const std::vector<Node*> nodes = graph.nodes();
  const auto at = std::find(nodes.begin(), nodes.end(), stream->producer());
  NodeSpec spec;
  spec.op_type = "MatMul";
  spec.inputs = {stream, graph.add_initializer(gap.stream + "_patch", std::move(patch))};
  spec.outputs = {{gap.stream + "_patched", stream->type(), false}};
  Node* product_node = graph.insert(std::move(spec), at + 1 == nodes.end() ? nullptr : *(at + 1));
  graph.set_input(*product_node, 0, nullptr);  // not a reader of its own output while readers are moved
  graph.replace_all_uses(*stream, *product_node->output());
  graph.set_input(*product_node, 0, stream);
  return HealNotes{fmt::format("a product of {0} x {0} in the gap", width)};
}

}  // namespace onnxfold
