#include "analysis/structure/repeat_mismatch.h"

#include <fmt/format.h>

#include "ir/match.h"

namespace onnxfold {
namespace {

std::string described(const Value* value) {
  if (value == nullptr) return "nothing";
  if (const Tensor* tensor = constant(value)) {
    return fmt::format("a constant {}", to_string(Type::tensor(tensor->dtype(), tensor->dims())));
  }
  const std::string type = value->dtype() == DType::kUndefined ? "" : " " + to_string(value->type());
  const Node* node = value->producer();
  return fmt::format("'{}'{}{}", value->name(), type, node == nullptr ? "" : fmt::format(" of {}", node->op_type()));
}

std::string named(const Node& node) {
  return node.name.empty() ? node.label() : fmt::format("{} '{}'", node.op_type(), node.name);
}

}  // namespace

std::string different_nodes(const Node& later, const Node& earlier) {
  if (later.op_type() != earlier.op_type()) {
    return fmt::format("{} stands where {} does in an earlier block", named(later), named(earlier));
  }
  for (std::size_t i = 0; i < std::min(later.outputs().size(), earlier.outputs().size()); ++i) {
    const Value *a = later.output(i), *b = earlier.output(i);
    if (a == nullptr || b == nullptr || to_string(a->type()) == to_string(b->type())) continue;
    return fmt::format("{} gives {}, {} in an earlier block gives {}", named(later), to_string(a->type()),
                       named(earlier), to_string(b->type()));
  }
  return fmt::format("the attributes of {} and of {} in an earlier block differ", named(later), named(earlier));
}

std::string different_inputs(const Node& later, const Node& earlier, const Value* read, const Value* read_earlier) {
  return fmt::format("{} reads {}, {} in an earlier block reads {}", named(later), described(read), named(earlier),
                     described(read_earlier));
}

}  // namespace onnxfold
