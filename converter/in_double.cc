#include "converter/in_double.h"

#include <algorithm>
#include <cstring>

#include "analysis/compare/metrics.h"
#include "converter/pipeline.h"
#include "ir/intended_number.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kOnnxDouble = 11;  // TensorProto.DataType of `to` attributes

bool widens(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

// Passes look into small constants only when their bytes are at hand.
constexpr std::int64_t kMadeAtOnce = 1 << 16;  // elements

// A lone number is part of a formula and not a weight: it is read as the number it was rounded from.
Tensor widened(const Tensor& tensor) {
  if ((tensor.dtype() == DType::kFloat32 || tensor.dtype() == DType::kFloat16) && tensor.size() == 1) {
    if (const auto number = to_floats(tensor)) {
      return Tensor::of<double>(tensor.dims(), {intended_number(number->front(), tensor.dtype())});
    }
  }
  const auto make = [tensor]() -> Result<Buffer> {
    OF_ASSIGN(const std::vector<double> numbers, to_doubles(tensor));
    Buffer buffer(numbers.size() * sizeof(double));
    if (!numbers.empty()) std::memcpy(buffer.data(), numbers.data(), buffer.size());
    return buffer;
  };
  if (tensor.size() <= kMadeAtOnce && !tensor.is_deferred()) {
    if (auto buffer = make()) return Tensor::owned(DType::kFloat64, tensor.dims(), std::move(*buffer));
  }
  return Tensor::deferred(DType::kFloat64, tensor.dims(), make);
}

void widen(Type& type) {
  if ((type.kind == Type::Kind::kTensor || type.kind == Type::Kind::kSparseTensor) && widens(type.dtype)) {
    type.dtype = DType::kFloat64;
  }
  for (Type& inner : type.inner) widen(inner);
}

// Puts an initializer of the same name in the place of `old`, which an initializer or a Constant node holds.
void replace_constant(Graph& graph, Value& old, const Tensor& tensor) {
  const std::string name = old.name();
  Value* wide = graph.add_initializer(name, widened(tensor));
  graph.replace_all_uses(old, *wide);
  if (Node* node = old.producer()) {
    graph.erase(*node);
  } else {
    graph.erase(old);
  }
  if (wide->name() != name) graph.rename(*wide, name);
}

void widen_constants(Graph& graph) {
  for (Value* value : graph.initializers()) {
    if (!widens(value->dtype())) continue;
    if (value->is_graph_input()) {
      graph.set_input_default(*value, widened(*value->initializer()));
    } else {
      replace_constant(graph, *value, *value->initializer());
    }
  }
  for (Node* node : graph.nodes_of("Constant")) {
    Value* value = node->output();
    const Tensor* constant = value == nullptr ? nullptr : value->constant();
    if (constant != nullptr && widens(constant->dtype())) replace_constant(graph, *value, *constant);
  }
}

void widen_attributes(Node& node) {
  if (node.is("Constant")) return;
  for (const char* name : {"to", "dtype"}) {
    const auto dtype = static_cast<DType>(node.attr_int(name, 0));
    if (widens(dtype)) node.set_attribute(name, kOnnxDouble);
  }
  const Tensor* value = node.attr_tensor("value");
  if (value != nullptr && widens(value->dtype())) node.set_attribute("value", widened(*value));
  // ConstantOfShape's default value is a float32 zero.
  if (node.is("ConstantOfShape") && value == nullptr) node.set_attribute("value", Tensor::of<double>({1}, {0.0}));
}

void widen_graph(Graph& graph) {
  widen_constants(graph);
  for (Value* value : graph.values()) {
    Type type = value->type();
    widen(type);
    if (!(type == value->type())) value->set_type(std::move(type));
  }
  for (Node* node : graph.nodes()) {
    widen_attributes(*node);
    for (Graph* subgraph : node->subgraphs()) widen_graph(*subgraph);
  }
  graph.purge();
}

Result<Feeds> widened_feeds(const Feeds& feeds) {
  Feeds wide;
  for (const auto& [name, datum] : feeds) {
    if (!datum.is_array() || !widens(datum.array.dtype())) {
      wide.emplace(name, datum);
      continue;
    }
    OF_ASSIGN(const std::vector<double> numbers, to_doubles(datum.array));
    OF_ASSIGN(const Tensor tensor, from_doubles(DType::kFloat64, datum.array.dims(), numbers));
    OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat64));
    wide.emplace(name, Datum(std::move(array)));
  }
  return wide;
}

// From one floating type to another: the twin, where all are doubles, does without it.
bool changes_precision(const Node& node) {
  if (!node.is("Cast") || !is_float(static_cast<DType>(node.attr_int("to", 0)))) return false;
  return node.input(0) != nullptr && is_float(node.input(0)->dtype());
}

// Operators of all graphs in order. Constant nodes are left out: the twin has initializers in their place.
std::vector<std::string> operators_of(Model& model) {
  std::vector<std::string> operators;
  for (const Graph* graph : model.graphs()) {
    for (const Node* node : graph->nodes()) {
      if (!node->is("Constant") && !changes_precision(*node))
        operators.push_back(node->domain() + ":" + node->op_type());
    }
  }
  return operators;
}

}  // namespace

Result<std::unique_ptr<Model>> in_double(const Model& model) {
  std::unique_ptr<Model> twin = model.clone();
  widen_graph(twin->graph());
  for (const auto& function : twin->functions) widen_graph(*function->body);
  return twin;
}

Result<Dataset> in_double(const Dataset& data) {
  Dataset wide = data;
  for (Feeds& batch : wide.batches) {
    OF_ASSIGN(batch, widened_feeds(batch));
  }
  return wide;
}

Result<std::optional<double>> error_in_double(const Model& before, const Model& after, const Recipe& recipe,
                                              const Dataset& data, const PipelineOptions& pipeline) {
  OF_ASSIGN(const std::unique_ptr<Model> wide_before, in_double(before));
  const std::unique_ptr<Model> wide_after = wide_before->clone();
  PipelineOptions options;
  options.seed = pipeline.seed;
  std::optional<Dataset> calibration;
  if (pipeline.calibration != nullptr) {
    OF_ASSIGN(calibration, in_double(*pipeline.calibration));
    options.calibration = &*calibration;
  }
  if (!run_pipeline(*wide_after, recipe, options)) return std::optional<double>();
  const std::unique_ptr<Model> reference = after.clone();
  if (operators_of(*wide_after) != operators_of(*reference)) return std::optional<double>();
  OF_ASSIGN(const Dataset wide_data, in_double(data));
  CompareOptions compare;
  compare.precision = Precision::kFloat64;
  OF_ASSIGN(const Comparison comparison, compare_models(*wide_before, *wide_after, wide_data, compare));
  double largest = 0;
  for (const OutputMetrics& output : comparison.outputs) {
    if (output.shape_or_type_differs || output.new_nan_or_inf) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, output.max_rel_l2);
  }
  return largest;
}

}  // namespace onnxfold
