#include "ir/model.h"

namespace onnxfold {

Function::Function() = default;
Function::~Function() = default;
Function::Function(Function&&) noexcept = default;
Function& Function::operator=(Function&&) noexcept = default;

void Function::adopt() {
  if (body) body->opsets_ = &opset_imports;
}

Model::Model() : graph_(std::make_unique<Graph>()) {
  graph_->opsets_ = &opset_imports;
  graph_->model_ = this;
}

Model::~Model() = default;

namespace {

void collect(Graph& graph, std::vector<Graph*>& graphs) {
  graphs.push_back(&graph);
  for (Node* node : graph.nodes()) {
    for (Graph* inner : node->subgraphs()) collect(*inner, graphs);
  }
}

std::unique_ptr<Function> clone_function(const Function& function) {
  auto copy = std::make_unique<Function>();
  copy->domain = function.domain;
  copy->name = function.name;
  copy->overload = function.overload;
  copy->doc_string = function.doc_string;
  copy->attributes = function.attributes;
  for (const Attribute& attribute : function.defaults) copy->defaults.push_back(attribute.copy());
  copy->opset_imports = function.opset_imports;
  std::unordered_map<const Value*, Value*> map;
  copy->body = function.body->clone(nullptr, map);
  copy->metadata = function.metadata;
  copy->adopt();
  return copy;
}

}  // namespace

void Model::adopt_graph(Model& other) {
  graph_->swap_contents(*other.graph_);
  ir_version = other.ir_version;
  opset_imports = other.opset_imports;
}

std::vector<Graph*> Model::graphs() {
  std::vector<Graph*> all;
  collect(*graph_, all);
  return all;
}

std::unique_ptr<Model> Model::clone() const {
  auto copy = std::make_unique<Model>();
  copy->ir_version = ir_version;
  copy->opset_imports = opset_imports;
  for (const auto& function : functions) {
    copy->functions.push_back(clone_function(*function));
    copy->functions.back()->body->model_ = copy.get();
  }
  copy->producer_name = producer_name;
  copy->producer_version = producer_version;
  copy->domain = domain;
  copy->doc_string = doc_string;
  copy->model_version = model_version;
  copy->metadata = metadata;
  copy->opaque = opaque;
  std::unordered_map<const Value*, Value*> map;
  copy->graph_ = graph_->clone(nullptr, map);
  copy->graph_->opsets_ = &copy->opset_imports;
  copy->graph_->model_ = copy.get();
  return copy;
}

}  // namespace onnxfold
