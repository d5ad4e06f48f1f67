#include "passes/quantize/table_int8.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/match.h"
#include "passes/quantize/channel_int8.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kLeastElements = 1024;  // below it codes and three nodes save nothing

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return glob_match(pattern, name); });
}

bool reads_rows_of(const Use& use, const Value& table) {
  return use.node != nullptr && use.index == 0 && use.node->is("Gather") && use.node->input(0) == &table &&
         use.node->graph() == table.graph() && use.node->attr_int("axis", 0) % 2 == 0;
}

// Empty: the table can be quantized.
std::string refusal(const Value& table, const Int8Options& options) {
  const Tensor& tensor = *constant(&table);
  if (tensor.size() < std::max(kLeastElements, options.min_elements)) return "few elements";
  const std::string& name = table.name();
  if (!options.include.empty() && !matches_any(options.include, name)) return "not included";
  if (matches_any(options.exclude, name)) return "excluded";
  for (const Use& use : table.uses()) {
    if (use.node == nullptr) return "the table is an output of the model";
    if (!reads_rows_of(use, table)) return fmt::format("the table is also read as floats by {}", use.node->label());
    if (matches_any(options.exclude, use.node->name)) return "excluded";
  }
  return "";
}

// In the order of their first readers.
std::vector<Value*> find_tables(const Graph& graph) {
  std::vector<Value*> tables;
  for (const Node* node : graph.nodes()) {
    Value* table = int8_table(*node);
    if (table == nullptr || std::find(tables.begin(), tables.end(), table) != tables.end()) continue;
    tables.push_back(table);
  }
  return tables;
}

Type with_columns(const Type& type, DType dtype, std::int64_t columns) {
  Type made = type;
  made.dtype = dtype;
  if (made.shape && !made.shape->empty()) made.shape->back() = Dim{columns, "", ""};
  return made;
}

void read_codes(Graph& graph, Node& gather, Value& codes, Value& scales) {
  const std::string name = gather.output()->name();
  const Type& type = gather.output()->type();
  const std::int64_t columns = constant(&codes)->dims()[1];
  Value* at = gather.input(1);
  Node* found = graph.insert(
      {"Gather", {&codes, at}, {{name + "_codes", with_columns(type, DType::kInt8, columns)}}, {}, "", ""}, &gather);
  NodeSpec cast{"Cast", {found->output()}, {{name + "_numbers", type}}, {}, "", ""};
  cast.attributes.emplace_back("to", static_cast<std::int64_t>(DType::kFloat32));
  Node* numbers = graph.insert(std::move(cast), &gather);
  Node* steps = graph.insert(
      {"Gather", {&scales, at}, {{name + "_scales", with_columns(type, DType::kFloat32, 1)}}, {}, "", ""}, &gather);
  Node* made =
      graph.insert({"Mul", {numbers->output(), steps->output()}, {{name, type}}, {}, "", gather.name}, &gather);
  replace_and_erase(graph, gather, *made->output());
}

}  // namespace

Value* int8_table(const Node& node) {
  if (!node.is("Gather") || constant(node.input(0)) == nullptr || constant(node.input(1)) != nullptr) return nullptr;
  Value* table = node.input(0);
  const Tensor& tensor = *constant(table);
  const bool own = table->graph() == node.graph();  // nothing outside of a body is changed from inside
  return own && tensor.dtype() == DType::kFloat32 && tensor.rank() == 2 ? table : nullptr;
}

Result<bool> quantize_tables(Graph& graph, const Int8Options& options, PassContext& context) {
  bool any = false;
  for (Value* table : find_tables(graph)) {
    const Tensor tensor = *constant(table);
    const std::string name = table->name();
    if (const std::string why = refusal(*table, options); !why.empty()) {
      context.skipped(name, why, tensor.nbytes());
      continue;
    }
    auto made = quantize_channels(tensor, 0);
    if (!made) return fail(made.error().in(fmt::format("table '{}'", name)));
    const std::int64_t rows = tensor.dims()[0];
    Value* codes = add_constant(graph, made->codes, name + "_quantized");
    Value* scales = add_constant(graph, Tensor::of<float>({rows, 1}, made->scales), name + "_scale");
    const std::vector<Use> readers = table->uses();
    for (const Use& use : readers) read_codes(graph, *use.node, *codes, *scales);
    if (!table->erased()) erase_if_unused(graph, *table);
    context.applied(name, "int8 table, one scale a row", tensor.nbytes(), tensor.size() + 4 * rows);
    any = true;
  }
  return any;
}

}  // namespace onnxfold
