#include "passes/reparam/linear/column_pieces.h"

#include <algorithm>

#include "ir/match.h"

namespace onnxfold {
namespace {

bool last_axis(std::int64_t axis, const Value& value) {
  return axis == -1 || (value.rank() && axis == *value.rank() - 1);
}

std::optional<std::vector<std::int64_t>> split_sizes(const Node& split, std::int64_t columns) {
  if (auto sizes = split.attr_ints("split")) return sizes;
  if (split.input(1) != nullptr) return int_constants(split.input(1));
  const auto count = static_cast<std::int64_t>(split.outputs().size());
  if (columns % count != 0) return {};  // opset 18 makes the last one smaller: rare enough to refuse
  return std::vector<std::int64_t>(static_cast<std::size_t>(count), columns / count);
}

bool add_split(const Node& split, std::int64_t columns, std::vector<ColumnPiece>& pieces) {
  const auto sizes = split_sizes(split, columns);
  if (!last_axis(split.attr_int("axis", 0), *split.input(0)) || !sizes || sizes->size() != split.outputs().size()) {
    return false;
  }
  std::int64_t at = 0;
  for (std::size_t i = 0; i < sizes->size(); ++i) {
    const std::int64_t end = at + (*sizes)[i];
    if (split.output(i) != nullptr) pieces.push_back({split.output(i), {at, end}});
    at = end;
  }
  return at == columns;
}

// One number of an input (opset 10) or attribute.
std::optional<std::int64_t> single(const Node& node, const char* attribute, std::size_t index) {
  const auto numbers = node.opset() < 10 ? node.attr_ints(attribute) : int_constants(node.input(index));
  return numbers && numbers->size() == 1 ? std::optional(numbers->front()) : std::nullopt;
}

bool add_slice(const Node& slice, std::int64_t columns, std::vector<ColumnPiece>& pieces) {
  const auto begin = single(slice, "starts", 1), end = single(slice, "ends", 2), axis = single(slice, "axes", 3);
  if (!begin || !end || !axis || !last_axis(*axis, *slice.input(0))) return false;
  if (slice.input(4) != nullptr && single(slice, "", 4) != 1) return false;
  const auto place = [columns](std::int64_t at) {
    return std::clamp<std::int64_t>(at < 0 ? at + columns : at, 0, columns);
  };
  pieces.push_back({slice.output(), {place(*begin), place(*end)}});
  return true;
}

}  // namespace

std::optional<std::vector<ColumnPiece>> column_pieces(const Linear& linear) {
  std::vector<ColumnPiece> pieces;
  const Value& result = *linear.output;
  if (result.is_graph_output()) return {};
  for (const Use& use : result.uses()) {
    if (use.node->is("Shape") && use.node->graph() == result.graph()) return {};  // its width will change
    const bool cut = use.index == 0 && use.node->graph() == result.graph() &&
                     ((use.node->is("Split") && add_split(*use.node, linear.out, pieces)) ||
                      (use.node->is("Slice") && add_slice(*use.node, linear.out, pieces)));
    if (cut) continue;
    if (result.uses().size() != 1) return {};
    pieces.push_back({linear.output, {0, linear.out}});
  }
  std::erase_if(pieces, [](const ColumnPiece& piece) { return piece.value->uses().empty(); });
  std::sort(pieces.begin(), pieces.end(),
            [](const ColumnPiece& a, const ColumnPiece& b) { return a.columns.begin < b.columns.begin; });
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].columns.begin >= pieces[i].columns.end) return {};
    if (i > 0 && pieces[i - 1].columns.end > pieces[i].columns.begin) return {};
  }
  return pieces;
}

std::optional<Linear> cut_linear(const Value& value) {
  const Node* node = value.producer();
  if (node != nullptr && (node->is("Split") || node->is("Slice"))) return linear_making(node->input(0));
  return linear_making(&value);
}

}  // namespace onnxfold
