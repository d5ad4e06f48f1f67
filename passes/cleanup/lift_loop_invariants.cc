// Loop(n, c, v, s){i, c', a, b => c'', a, f(a, b)} => Loop(n, c, s){i, c', b => c'', f(v, b)}; Scan likewise
//
// A value that every turn hands on as it is (directly or through Identity) is read from outside, as weights of
// recurrent layers are that TensorFlow's while loops carry along: only then is it seen to be constant. What the loop
// gives back of it is the value itself, after no turn too. Exact.
#include <algorithm>
#include <optional>

#include "analysis/structure/linear.h"
#include "passes/inline_graph.h"
#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// How a loop lays out what it carries.
struct States {
  std::size_t count = 0;
  std::size_t node_input = 0, body_input = 0, body_output = 0;  // of the first; the node's own outputs begin with it
};

std::optional<States> states_of(const Node& node, const Graph& body) {
  if (node.is("Loop")) {
    if (body.inputs().size() < 2 || node.inputs().size() != body.inputs().size()) return std::nullopt;
    return States{body.inputs().size() - 2, 2, 2, 1};
  }
  const std::int64_t scanned = node.attr_int("num_scan_inputs", 0);
  if (!node.is("Scan") || node.opset() < 9) return std::nullopt;  // before, with a batch and lengths
  if (scanned < 1 || node.inputs().size() != body.inputs().size()) return std::nullopt;
  if (static_cast<std::size_t>(scanned) > body.inputs().size()) return std::nullopt;
  return States{body.inputs().size() - static_cast<std::size_t>(scanned), 0, 0, 0};
}

class LiftLoopInvariants final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    bool changed = false;
    for (Node* node : graph.nodes()) {
      if (node->erased() || !(node->is("Loop") || node->is("Scan"))) continue;
      const Graph* body = node->attr_graph("body");
      if (body == nullptr) continue;
      const std::optional<States> states = states_of(*node, *body);
      if (!states) continue;
      const std::vector<bool> invariant = invariants(*node, *body, *states);
      if (std::find(invariant.begin(), invariant.end(), true) == invariant.end()) continue;
      lift(graph, *node, *states, invariant);
      changed = true;
    }
    return changed;
  }

 private:
  static std::vector<bool> invariants(const Node& node, const Graph& body, const States& states) {
    std::vector<bool> found(states.count, false);
    if (body.outputs().size() < states.body_output + states.count || node.outputs().size() < states.count) return found;
    for (std::size_t i = 0; i < states.count; ++i) {
      const Value* inside = body.inputs()[states.body_input + i];
      found[i] = node.input(states.node_input + i) != nullptr && inside->initializer() == nullptr &&
                 behind_identity(body.outputs()[states.body_output + i]) == inside;
    }
    return found;
  }

  static void lift(Graph& graph, Node& node, const States& states, const std::vector<bool>& invariant) {
    NodeSpec spec{node.op_type(), {}, {}, {}, node.domain(), node.name};
    std::vector<Value*> results(node.outputs().size(), nullptr);
    std::vector<std::size_t> stays;  // outputs of the old node that the new one has
    for (std::size_t i = 0; i < node.inputs().size(); ++i) {
      const bool state = i >= states.node_input && i < states.node_input + states.count;
      if (!state || !invariant[i - states.node_input]) spec.inputs.push_back(node.input(i));
    }
    for (std::size_t i = 0; i < node.outputs().size(); ++i) {
      if (i < states.count && invariant[i]) {
        results[i] = node.input(states.node_input + i);
        continue;
      }
      const Value* output = node.output(i);
      stays.push_back(i);
      spec.outputs.push_back(output == nullptr ? OutputSpec{"", {}, true}
                                               : OutputSpec{output->name(), output->type(), false});
    }
    if (!stays.empty()) {
      spec.attributes = attributes_without(graph, node, states, invariant);
      Node* made = graph.insert(std::move(spec), &node);
      made->doc_string = node.doc_string;
      made->metadata = node.metadata;
      for (std::size_t i = 0; i < stays.size(); ++i) results[stays[i]] = made->output(i);
    }
    replace_by(graph, node, results);
  }

  // Some exporters name values of a body like values around it, which would hide what is read from there.
  static void clear_name(Graph& body, const std::string& name) {
    if (Value* hiding = body.find(name)) body.rename(*hiding, body.unique_name(name));
    for (const Node* node : body.nodes()) {
      for (Graph* inner : node->subgraphs()) clear_name(*inner, name);
    }
  }

  // A body gives back what it makes itself.
  static void make_outputs_inside(Graph& body, Value& value) {
    for (std::size_t i = 0; i < body.outputs().size(); ++i) {
      if (body.outputs()[i] != &value) continue;
      NodeSpec spec{"Identity", {&value}, {{value.name() + "_out", value.type()}}, {}, "", ""};
      body.set_output(i, *body.insert(std::move(spec))->output());
    }
  }

  static std::vector<Attribute> attributes_without(Graph& graph, const Node& node, const States& states,
                                                   const std::vector<bool>& invariant) {
    std::vector<Attribute> attributes;
    for (const Attribute& attribute : node.attributes()) {
      ValueMap map;
      attributes.push_back(cloned(attribute, graph, map));
      if (attribute.name != "body") continue;
      Graph& body = *std::get<std::unique_ptr<Graph>>(attributes.back().value);
      for (std::size_t i = states.count; i-- > 0;) {
        if (!invariant[i]) continue;
        Value& inside = *body.inputs()[states.body_input + i];
        Value& outside = *node.input(states.node_input + i);
        clear_name(body, outside.name());
        body.remove_output(states.body_output + i);
        make_outputs_inside(body, inside);
        body.replace_all_uses(inside, outside);
        body.remove_input(states.body_input + i);
      }
    }
    return attributes;
  }
};

}  // namespace

std::unique_ptr<Pass> make_lift_loop_invariants(const PassOptions&) { return std::make_unique<LiftLoopInvariants>(); }

}  // namespace onnxfold
