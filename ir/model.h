// Model: a main graph, functions, and what belongs to the file as a whole.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace onnxfold {

// A model-local function. Its body's inputs are untyped values; attributes without default are in `attributes`.
struct Function {
  std::string domain, name, overload, doc_string;
  std::vector<std::string> attributes;
  std::vector<Attribute> defaults;
  OpsetImports opset_imports;
  std::unique_ptr<Graph> body;
  Metadata metadata;

  Function();
  ~Function();
  Function(Function&&) noexcept;
  Function& operator=(Function&&) noexcept;
  void adopt();  // lets the body see this function's opset imports; call after the imports are complete or moved
};

class Model {
 public:
  Model();
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  Graph& graph() { return *graph_; }
  const Graph& graph() const { return *graph_; }
  std::unique_ptr<Model> clone() const;
  // Takes over the content of the main graph, the IR version and the opset imports of `other`; the rest stays, and so
  // does the Graph object itself. Pointers to its old nodes and values belong to `other` afterwards.
  void adopt_graph(Model& other);
  // The main graph and every subgraph in it, outermost first; function bodies not included.
  std::vector<Graph*> graphs();

  std::int64_t ir_version = 0;
  OpsetImports opset_imports;
  std::vector<std::unique_ptr<Function>> functions;
  std::string producer_name, producer_version, domain, doc_string;
  std::int64_t model_version = 0;
  Metadata metadata;
  std::string opaque;  // serialized ModelProto holding only the fields the IR does not model (training, devices)

 private:
  std::unique_ptr<Graph> graph_;
};

}  // namespace onnxfold
