#include "passes/quantize/table_int8.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/match.h"
#include "passes/quantize/channel_int8.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr int kMostCasts = 8;
constexpr std::int64_t kLeastElements = 1024;  // below it codes and three nodes save nothing

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return glob_match(pattern, name); });
}

bool is_table(const Tensor& tensor) { return is_float(tensor.dtype()) && tensor.size() > 0 && tensor.rank() == 2; }

// A Cast between floats, or nothing at all.
bool only_casts(const Node& node) {
  return node.is("Identity") ||
         (node.is("Cast") && node.output()->type().is_tensor() && is_float(node.output()->dtype()));
}

// Gathers of rows of what `value` holds, read directly or behind Casts. The reason, where something else reads it.
std::string find_readers(const Value& value, std::vector<Node*>& readers) {
  for (const Use& use : value.uses()) {
    if (use.node == nullptr) return "the table is an output of the model";
    Node& node = *use.node;
    const bool here = node.graph() == value.graph();
    if (here && only_casts(node)) {
      if (std::string why = find_readers(*node.output(), readers); !why.empty()) return why;
    } else if (here && node.is("Gather") && use.index == 0 && node.attr_int("axis", 0) % 2 == 0) {
      readers.push_back(&node);
    } else {
      return fmt::format("the table is also read as floats by {}", node.label());
    }
  }
  return "";
}

// Empty: the table can be quantized.
std::string refusal(const Value& table, const Int8Options& options, std::vector<Node*>& readers) {
  const Tensor& tensor = *constant(&table);
  if (tensor.size() < std::max(kLeastElements, options.min_elements)) return "few elements";
  const std::string& name = table.name();
  if (!options.include.empty() && !matches_any(options.include, name)) return "not included";
  if (matches_any(options.exclude, name)) return "excluded";
  if (std::string why = find_readers(table, readers); !why.empty()) return why;
  for (const Node* reader : readers) {
    if (matches_any(options.exclude, reader->name)) return "excluded";
    if (!is_float(reader->output()->dtype())) return "the type of what is read is not known";
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
  const auto cast = [&](Value* x, const std::string& as, const Type& to) {
    NodeSpec spec{"Cast", {x}, {{as, to}}, {}, "", ""};
    spec.attributes.emplace_back("to", static_cast<std::int64_t>(to.dtype));
    return graph.insert(std::move(spec), &gather)->output();
  };
  Value* at = gather.input(1);
  Node* found = graph.insert(
      {"Gather", {&codes, at}, {{name + "_codes", with_columns(type, DType::kInt8, columns)}}, {}, "", ""}, &gather);
  Type wide = type;
  wide.dtype = DType::kFloat32;
  Value* numbers = cast(found->output(), name + "_numbers", wide);
  Node* steps = graph.insert(
      {"Gather", {&scales, at}, {{name + "_scales", with_columns(type, DType::kFloat32, 1)}}, {}, "", ""}, &gather);
  Node* product = graph.insert({"Mul", {numbers, steps->output()}, {{name, wide}}, {}, "", gather.name}, &gather);
  // Small types have no room for the scales.
  Value* made = type.dtype == DType::kFloat32 ? product->output() : cast(product->output(), name, type);
  Value& table = *gather.input(0);
  replace_and_erase(graph, gather, *made);
  if (!table.erased()) erase_if_unused(graph, table);
}

}  // namespace

Value* int8_table(const Node& node) {
  if (!node.is("Gather") || constant(node.input(1)) != nullptr) return nullptr;
  Value* table = node.input(0);
  // Nothing outside of a body is changed from inside.
  for (int depth = 0; table != nullptr && table->graph() == node.graph() && depth < kMostCasts; ++depth) {
    if (const Tensor* tensor = constant(table)) return is_table(*tensor) ? table : nullptr;
    if (table->producer() == nullptr || !only_casts(*table->producer())) return nullptr;
    table = table->producer()->input(0);
  }
  return nullptr;
}

Result<bool> quantize_tables(Graph& graph, const Int8Options& options, PassContext& context) {
  bool any = false;
  for (Value* table : find_tables(graph)) {
    const Tensor tensor = *constant(table);
    const std::string name = table->name();
    std::vector<Node*> readers;
    if (const std::string why = refusal(*table, options, readers); !why.empty()) {
      context.skipped(name, why, tensor.nbytes());
      continue;
    }
    auto made = quantize_channels(tensor, 0);
    if (!made) return fail(made.error().in(fmt::format("table '{}'", name)));
    const std::int64_t rows = tensor.dims()[0];
    Value* codes = add_constant(graph, made->codes, name + "_quantized");
    Value* scales = add_constant(graph, Tensor::of<float>({rows, 1}, made->scales), name + "_scale");
    for (Node* reader : readers) read_codes(graph, *reader, *codes, *scales);
    if (!table->erased()) erase_if_unused(graph, *table);
    context.applied(name, "int8 table, one scale a row", tensor.nbytes(), tensor.size() + 4 * rows);
    any = true;
  }
  return any;
}

}  // namespace onnxfold
