#include "passes/tie/fixed_loop.h"

#include "ir/match.h"

namespace onnxfold {
namespace {

tl::unexpected<Error> because(std::string why) { return fail(Code::kUnsupported, std::move(why)); }

std::optional<bool> bool_constant(const Value* value) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->size() != 1 || tensor->dtype() != DType::kBool) return std::nullopt;
  const auto flags = to_int64s(*tensor);
  if (!flags) return std::nullopt;
  return (*flags)[0] != 0;
}

// Is the condition that a turn hands on true whenever its own was?
bool stays_true(const Value* value, const Value* go_on) {
  for (int steps = 0; steps < 16; ++steps) {
    if (value == go_on) return true;
    if (const auto flag = bool_constant(value)) return *flag;
    const Node* node = value->producer();
    if (node == nullptr || !(node->is("Identity") || node->is("Cast"))) return false;
    if (node->is("Cast")) {  // of a number or of a truth: the result is true when the operand is not zero
      if (const auto number = scalar_constant(node->input(0))) return *number != 0;
      if (node->input(0)->dtype() != DType::kBool) return false;
    }
    value = node->input(0);
  }
  return false;
}

Result<FixedLoop> described_loop(const Node& node, const Graph& body) {
  FixedLoop loop;
  loop.body = &body;
  const std::size_t carried = node.inputs().size() < 2 ? 0 : node.inputs().size() - 2;
  if (body.inputs().size() != carried + 2 || body.outputs().size() < carried + 1) {
    return because("the body does not fit the inputs");
  }
  const auto turns = int_constants(node.input(0));
  if (!turns || turns->size() != 1) return because("the number of turns is not constant");
  loop.turns = std::max<std::int64_t>(0, (*turns)[0]);
  loop.turn = body.inputs()[0];
  loop.go_on = body.inputs()[1];
  if (node.input(1) != nullptr) {
    const auto first = bool_constant(node.input(1));
    if (!first) return because("the first condition is not constant");
    if (!*first) loop.turns = 0;
  }
  if (loop.turns > 1 && !stays_true(body.outputs()[0], loop.go_on)) return because("the condition is computed");
  for (std::size_t i = 0; i < carried; ++i) {
    if (node.input(i + 2) == nullptr) return because("an input is left out");
    loop.carried_in.push_back(body.inputs()[i + 2]);
    loop.initial.push_back(node.input(i + 2));
    loop.carried_out.push_back(body.outputs()[i + 1]);
  }
  for (std::size_t i = carried + 1; i < body.outputs().size(); ++i) {
    loop.collected.push_back({body.outputs()[i], 0, false});
  }
  return loop;
}

std::int64_t entry(const Node& node, const char* list, std::size_t i) {
  const auto values = node.attr_ints(list);
  return values && i < values->size() ? (*values)[i] : 0;
}

Result<FixedLoop> described_scan(const Node& node, const Graph& body) {
  if (node.opset() < 9) return because("Scan of opset 8");
  FixedLoop loop;
  loop.body = &body;
  const auto scans = static_cast<std::size_t>(std::max<std::int64_t>(0, node.attr_int("num_scan_inputs", 0)));
  const std::size_t inputs = node.inputs().size();
  if (scans == 0 || scans > inputs || body.inputs().size() != inputs || body.outputs().size() < inputs - scans) {
    return because("the body does not fit the inputs");
  }
  const std::size_t states = inputs - scans;
  loop.turns = -1;
  for (std::size_t i = 0; i < inputs; ++i) {
    Value* value = node.input(i);
    if (value == nullptr) return because("an input is left out");
    if (i < states) {
      loop.carried_in.push_back(body.inputs()[i]);
      loop.initial.push_back(value);
      loop.carried_out.push_back(body.outputs()[i]);
      continue;
    }
    const std::size_t k = i - states;
    const Tensor* tensor = constant(value);
    const auto rank = tensor != nullptr ? std::optional<int>(tensor->rank()) : value->rank();
    if (!rank || *rank == 0) return because("the rank of a scanned input is not known");
    std::int64_t axis = entry(node, "scan_input_axes", k);
    if (axis < 0) axis += *rank;
    if (axis < 0 || axis >= *rank) return because("an axis is out of range");
    const auto at = static_cast<std::size_t>(axis);
    const Dim dim = tensor != nullptr ? Dim{tensor->dims()[at], "", ""} : (*value->type().shape)[at];
    if (dim.known()) {
      if (loop.turns >= 0 && loop.turns != *dim.value) return because("scanned inputs differ in length");
      loop.turns = *dim.value;
    }
    loop.scanned.push_back({body.inputs()[i], value, axis, entry(node, "scan_input_directions", k) == 1});
  }
  if (loop.turns < 0) return because("the length of the scanned inputs is not known");
  for (std::size_t i = states; i < body.outputs().size(); ++i) {
    loop.collected.push_back({body.outputs()[i], entry(node, "scan_output_axes", i - states),
                              entry(node, "scan_output_directions", i - states) == 1});
  }
  return loop;
}

}  // namespace

Result<FixedLoop> fixed_loop(const Node& node) {
  const Graph* body = node.attr_graph("body");
  if (body == nullptr) return because("the body is missing");
  for (const Value* value : body->values()) {
    if (value->sparse_initializer() != nullptr) return because("the body has sparse constants");
  }
  return node.is("Scan") ? described_scan(node, *body) : described_loop(node, *body);
}

}  // namespace onnxfold
