#include "passes/reparam/norm/embedding_sum.h"

#include "ir/match.h"

namespace onnxfold {
namespace {

enum Input : std::size_t { kIds, kSegments, kWords, kPositionTable, kSegmentTable, kGain, kBias, kMask, kPositionIds };

// Rows of a table at ids of any shape.
Value* rows(ChainBuilder& build, Value* table, Value* ids) {
  std::vector<Dim> shape(ids->type().shape ? *ids->type().shape : std::vector<Dim>(2));
  shape.push_back((*table->type().shape)[1]);
  return build.add("Gather", {table, ids}, Type::tensor(table->dtype(), shape));
}

// The first rows of the position table, as many as there are ids in a row.
Value* first_rows(ChainBuilder& build, Value* table, Value* ids) {
  Value* shape = build.add("Shape", {ids}, Type::tensor(DType::kInt64, Dims{2}));
  Value* length = build.add("Gather", {shape, build.ints({1})}, Type::tensor(DType::kInt64, Dims{1}));
  const std::vector<Dim> dims = {(*ids->type().shape)[1], (*table->type().shape)[1]};
  return build.add("Slice", {table, build.ints({0}), length, build.ints({0})}, Type::tensor(table->dtype(), dims));
}

}  // namespace

std::string embedding_problem(const Node& node, std::int64_t opset) {
  if (opset < 11) return "its chain needs opset 11";
  for (const Input i : {kIds, kWords, kPositionTable, kGain, kBias}) {
    if (node.input(i) == nullptr) return "an input is missing";
  }
  if (node.input(kIds)->rank() != 2) return "the rank of its ids is not known";
  for (const Input i : {kWords, kPositionTable, kSegmentTable}) {
    const Value* table = node.input(i);
    if (table != nullptr && (table->rank() != 2 || !is_float(table->dtype()))) return "a table is no matrix";
  }
  if (node.input(kSegments) != nullptr && node.input(kSegmentTable) == nullptr) return "it has no table of segments";
  const Value* counts = node.output(1);
  if (counts == nullptr || counts->uses().empty()) return "";
  return node.input(kMask) == nullptr ? "its count of the mask is read, and there is no mask" : "";
}

Value* embedding_sum(ChainBuilder& build, const Node& node) {
  Value* ids = node.input(kIds);
  Value* sum = rows(build, node.input(kWords), ids);
  Value* positions = node.input(kPositionIds) != nullptr
                         ? rows(build, node.input(kPositionTable), node.input(kPositionIds))
                         : first_rows(build, node.input(kPositionTable), ids);
  sum = build.map("Add", {sum, positions});
  if (node.input(kSegments) == nullptr) return sum;
  return build.map("Add", {sum, rows(build, node.input(kSegmentTable), node.input(kSegments))});
}

Value* embedding_mask_counts(ChainBuilder& build, const Node& node) {
  Value* mask = node.input(kMask);
  const auto shape = mask->type().shape;
  const Type seen = Type::tensor(DType::kBool, shape ? *shape : std::vector<Dim>(2));
  Value* one = build.cast(build.constant(Tensor::of<std::int64_t>({1}, {1})), mask->dtype());
  Value* ones = build.cast(build.add("Equal", {mask, one}, seen), DType::kInt32);
  std::vector<Attribute> attributes;
  attributes.emplace_back("keepdims", std::int64_t{0});
  std::vector<Value*> inputs = {ones};
  if (build.opset() >= 13) {
    inputs.push_back(build.ints({1}));
  } else {
    attributes.emplace_back("axes", std::vector<std::int64_t>{1});
  }
  const Type counts = Type::tensor(DType::kInt32, std::vector<Dim>{(*seen.shape)[0]});
  return build.add("ReduceSum", std::move(inputs), counts, std::move(attributes));
}

}  // namespace onnxfold
