// A run of equal blocks written as one Loop or Scan.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "analysis/structure/repeats.h"
#include "ir/graph.h"

namespace onnxfold {

enum class RolledForm {
  kLoop,  // picks what differs with Gather by the number of the turn
  kScan,  // scans what differs; not possible where nothing does
};

// Replaces the blocks of a run by one node. Constants that differ are joined along a new first axis, each once; where
// several blocks share one, a table says which block reads which. Inputs that differ are joined at run time. What is
// read outside of the run is picked from what the node collects.
class RolledRun {
 public:
  RolledRun(Graph& graph, const Repeat& repeat, const Operations& operations, RolledForm form)
      : graph_(graph), repeat_(repeat), operations_(operations), form_(form) {}

  // Empty when it can be written; else why not. Reads only.
  std::string obstacle() const;
  // The new node. REQUIRES: obstacle() is empty. The graph must be sorted afterwards.
  Node* write();

  std::int64_t bytes_before() const { return bytes_before_; }  // of the constants that differ
  std::int64_t bytes_after() const { return bytes_after_; }

 private:
  struct Slot {
    Value* items = nullptr;  // joined along the first axis, in the outer graph
    Value* table = nullptr;  // which item each turn reads; null: item t in turn t
    Value* inside = nullptr;
  };

  std::string collected_obstacle() const;
  std::int64_t bytes_stored_twice() const;
  Type merged_type(int node, int output) const;
  std::string merged_name(int node, int output) const;
  void make_slots();
  Slot constant_slot(const std::vector<Value*>& values);
  Value* joined_at_run_time(const std::vector<Value*>& values);
  void begin_body();
  void pick_slots();
  Value* picked(Value* items, Value* index);
  void copy_nodes();
  Value* inside(int node, std::size_t operand);
  Value* shared_inside(const Node& reader, Value& value);
  void finish_body();
  Value* output_of_body(Value* value);
  Node* insert_node();
  void replace_outside(Node& node);
  void stand_in(Value& value, Value& made);
  void erase_blocks();

  Graph& graph_;
  const Repeat& repeat_;
  const Operations& operations_;
  const RolledForm form_;
  std::unique_ptr<Graph> body_;
  Graph* inner_ = nullptr;
  Node* before_ = nullptr;  // in the outer graph: where new nodes go
  std::vector<Slot> slots_;
  std::vector<Value*> scanned_;  // of the outer graph, in the order of the body's scan inputs
  Value* turn_ = nullptr;        // number of the turn (Loop)
  Value* go_on_ = nullptr;
  std::vector<Value*> carried_;  // inputs of the body
  std::vector<Node*> copies_;
  std::unordered_map<const Value*, Value*> owned_;     // shared constants that the body holds itself
  std::vector<std::pair<Value*, std::string>> names_;  // that new values take over
  std::int64_t bytes_before_ = 0, bytes_after_ = 0;
};

}  // namespace onnxfold
