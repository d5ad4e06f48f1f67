// Graph, Node, Value: the intermediate representation. Model (ir/model.h) owns graphs.
//
// A Graph owns Nodes (stable addresses; list order is a topological order) and Values. Graph inputs, outputs and
// initializers are Values. A use is a (node, input index) pair or a graph output slot, in this graph or in a subgraph
// that captures the value. All edits of edges go through four mutators: insert, set_input, replace_all_uses, erase.
// They keep use lists right. Erased nodes and values stay allocated (erased() is true) until purge(), so that a pass
// may walk a snapshot while erasing.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ir/attribute.h"
#include "ir/result.h"
#include "ir/tensor.h"
#include "ir/type.h"

namespace onnxfold {

class Graph;
class Model;
class Node;
class Value;

using Metadata = std::vector<std::pair<std::string, std::string>>;  // in file order
using OpsetImports = std::map<std::string, std::int64_t>;           // "" is the default domain

// Where a value is read: input `index` of `node`, or output slot `index` of `graph` when node is null.
struct Use {
  Node* node = nullptr;
  int index = 0;
  Graph* graph = nullptr;  // the graph whose output this is; null for node uses
  friend bool operator==(const Use&, const Use&) = default;
};

class Value {
 public:
  const std::string& name() const { return name_; }
  const Type& type() const { return type_; }
  void set_type(Type type) { type_ = std::move(type); }
  DType dtype() const { return type_.is_tensor() ? type_.dtype : DType::kUndefined; }
  std::optional<int> rank() const { return type_.rank(); }
  std::optional<Dims> static_dims() const { return type_.static_dims(); }

  Node* producer() const { return producer_; }        // null for inputs and initializers
  int output_index() const { return output_index_; }  // position among the producer's outputs
  Graph* graph() const { return graph_; }
  const std::vector<Use>& uses() const { return uses_; }
  bool is_graph_input() const { return is_input_; }
  bool is_graph_output() const;  // of its own graph or of a subgraph
  bool erased() const { return erased_; }

  // The initializer tensor, if there is one, even when a graph input of the same name can override it.
  const Tensor* initializer() const { return initializer_.defined() ? &initializer_ : nullptr; }
  const SparseTensor* sparse_initializer() const { return sparse_.get(); }
  // The tensor this value always holds: an initializer that nothing can override, or the output of a Constant node
  // (value, value_float(s), value_int(s), value_string(s)). Null otherwise.
  const Tensor* constant() const;

  std::string doc_string;
  Metadata metadata;
  Metadata quantization;  // GraphProto.quantization_annotation of this tensor

 private:
  friend class Graph;
  friend class Node;
  Value() = default;
  std::string name_;
  Type type_;
  Node* producer_ = nullptr;
  int output_index_ = 0;
  Graph* graph_ = nullptr;
  std::vector<Use> uses_;
  bool is_input_ = false;
  bool erased_ = false;
  Tensor initializer_;
  Tensor constant_;  // of a Constant node's output
  std::unique_ptr<SparseTensor> sparse_;
  std::list<std::unique_ptr<Value>>::iterator self_;
};

class Node {
 public:
  const std::string& op_type() const { return op_type_; }
  const std::string& domain() const { return domain_; }  // "" for ai.onnx
  bool is(std::string_view op_type, std::string_view domain = "") const {
    return op_type_ == op_type && domain_ == domain;
  }
  // Operator set version that the enclosing model (or function) imports for this node's domain; 0 when it imports none.
  std::int64_t opset() const;

  const std::vector<Value*>& inputs() const { return inputs_; }    // null: omitted optional input
  const std::vector<Value*>& outputs() const { return outputs_; }  // null: omitted optional output
  Value* input(std::size_t i) const { return i < inputs_.size() ? inputs_[i] : nullptr; }  // null past the end
  Value* output(std::size_t i = 0) const { return i < outputs_.size() ? outputs_[i] : nullptr; }
  Graph* graph() const { return graph_; }
  bool erased() const { return erased_; }

  const std::vector<Attribute>& attributes() const { return attributes_; }
  const Attribute* attribute(std::string_view name) const;
  // Typed reads: the value when the attribute is there with that type, otherwise the default.
  std::int64_t attr_int(std::string_view name, std::int64_t fallback) const;
  float attr_float(std::string_view name, float fallback) const;
  std::string attr_string(std::string_view name, std::string_view fallback) const;
  std::optional<std::vector<std::int64_t>> attr_ints(std::string_view name) const;
  std::optional<std::vector<float>> attr_floats(std::string_view name) const;
  const Tensor* attr_tensor(std::string_view name) const;
  Graph* attr_graph(std::string_view name) const;
  std::vector<Graph*> subgraphs() const;  // all graphs in attributes, in order

  // Attributes are not edges, so a pass may set them directly. REQUIRES: not a Constant node, and no graph is replaced
  // while it still uses outer values.
  void set_attribute(std::string_view name, AttributeValue value);
  void remove_attribute(std::string_view name);

  // For messages: the name, or "Op of output 'x'" when the node has none.
  std::string label() const;

  std::string name;
  std::string overload;
  std::string doc_string;
  Metadata metadata;
  std::string opaque;  // serialized NodeProto holding only the fields the IR does not model (device configurations)

 private:
  friend class Graph;
  Node() = default;
  std::string op_type_, domain_;
  std::vector<Value*> inputs_, outputs_;
  std::vector<Attribute> attributes_;
  Graph* graph_ = nullptr;
  bool erased_ = false;
  std::int64_t order_ = 0;  // strictly increasing along the list; see Graph::before
  std::list<std::unique_ptr<Node>>::iterator self_;
};

// An output of a node to be inserted. An empty name asks for a fresh one; `omitted` leaves the slot empty.
struct OutputSpec {
  std::string name;
  Type type;
  bool omitted = false;
};

struct NodeSpec {
  std::string op_type;
  std::vector<Value*> inputs;       // null: omitted
  std::vector<OutputSpec> outputs;  // names are hints, made unique
  std::vector<Attribute> attributes;
  std::string domain;
  std::string name;
};

class Graph {
 public:
  // A subgraph has the node's graph as `parent`; a main graph or function body has none.
  explicit Graph(Graph* parent = nullptr);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // ---- reading ----
  std::vector<Node*> nodes() const;  // snapshot in topological order
  std::vector<Node*> nodes_of(std::string_view op_type, std::string_view domain = "") const;
  std::size_t node_count() const { return nodes_.size(); }
  const std::vector<Value*>& inputs() const { return inputs_; }
  const std::vector<Value*>& outputs() const { return outputs_; }
  std::vector<Value*> initializers() const;           // dense, in file order
  std::vector<Value*> values() const;                 // all live values of this graph
  Value* find(std::string_view name) const;           // in this graph only; null if none
  Value* find_in_scope(std::string_view name) const;  // here or in an enclosing graph
  Graph* parent() const { return parent_; }
  Graph& root();
  bool before(const Node& a, const Node& b) const;  // REQUIRES: both in this graph
  const OpsetImports& opset_imports() const;
  std::int64_t opset(std::string_view domain = "") const;  // 0 when not imported
  const Model* model() const;

  // ---- the four mutators ----
  // Inserts before `before` (at the end when null). Domain "ai.onnx" is stored as "". Adds no opset import.
  Node* insert(NodeSpec spec, const Node* before = nullptr);
  // Points input `index` of `node` at `value` (null: omitted). Grows the input list when index is past its end.
  void set_input(Node& node, std::size_t index, Value* value);
  // Every use of `from` becomes a use of `to`. When `from` is an output of a main graph or function its public name
  // moves to `to`; the freed value gets a fresh name. REQUIRES can_replace(from, to).
  void replace_all_uses(Value& from, Value& to);
  // False when both are public (graph outputs or inputs of a main graph) or `to` could not carry the public name.
  bool can_replace(const Value& from, const Value& to) const;
  // Erases a node with its outputs. REQUIRES: no output is used.
  void erase(Node& node);
  // Erases an unused initializer or an unused value without producer. REQUIRES: not a graph input.
  void erase(Value& value);

  // ---- building ----
  Value* add_input(std::string name, Type type);
  Value* add_initializer(std::string name_hint, Tensor tensor);
  Result<Value*> add_sparse_initializer(std::string name, SparseTensor tensor);  // exact name, as add_value_exact
  // Attaches the overriding default to a graph input that an initializer of the same name declares.
  void set_input_default(Value& input, Tensor tensor);
  // Drops an input (unused, or kept alive as plain initializer when it has a default). For interface-changing passes.
  void remove_input(std::size_t index);
  void add_output(Value& value);
  void set_output(std::size_t index, Value& value);
  void remove_output(std::size_t index);
  void rename(Value& value, std::string name);  // made unique when taken
  // `hint` itself when no graph of this tree uses it, else hint_1, hint_2...
  std::string unique_name(std::string_view hint);
  // Exact-name construction for the importer: corrupt when the name is taken in this graph.
  Result<Value*> add_value_exact(std::string name, Type type);
  Result<Value*> add_input_exact(std::string name, Type type);
  Result<Value*> add_initializer_exact(std::string name, Tensor tensor);
  Result<Node*> insert_exact(NodeSpec spec,
                             std::vector<Value*> outputs);  // outputs made by add_value_exact; null: omitted
  // Restores topological order, stable where order is already right. Errors: corrupt "cycle through node ...".
  Status sort_topologically();
  // Frees what was erased. Pointers to erased nodes and values die here.
  void purge();
  // Deep copy; tensors are shared. `outer` maps captured values of enclosing graphs to their copies (identity if
  // absent).
  std::unique_ptr<Graph> clone(Graph* new_parent, std::unordered_map<const Value*, Value*>& map) const;

  // Exchanges everything but the identity of the two objects (parent, model, opset imports).
  void swap_contents(Graph& other);
  // Makes this root graph read the opset imports and model of another root graph (a function body's copy).
  void adopt_opsets(const Graph& other);

  std::string name;
  std::string doc_string;
  Metadata metadata;

 private:
  friend class Model;
  friend struct Function;
  friend class Node;
  friend class Value;

  static constexpr std::int64_t kOrderGap = std::int64_t{1} << 20;  // between order numbers of neighbours

  void own_contents();
  Value* new_value(std::string name, Type type);
  void link_node(Node& node, const Node* before);
  void attach(Value& value, Use use);
  void detach(Value& value, Use use);
  void take_name(Value& value, std::string name);
  void release_name(const Value& value);

  Graph* parent_ = nullptr;
  const OpsetImports* opsets_ = nullptr;  // of the owning model or function (root graphs)
  const Model* model_ = nullptr;
  std::list<std::unique_ptr<Node>> nodes_, dead_nodes_;
  std::list<std::unique_ptr<Value>> values_, dead_values_;
  std::vector<Value*> inputs_, outputs_;
  std::unordered_map<std::string, Value*> by_name_;
  std::unordered_map<std::string, int> names_in_tree_;  // of the root graph: how many values carry a name
};

}  // namespace onnxfold
