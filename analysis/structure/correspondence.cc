#include "analysis/structure/correspondence.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

namespace onnxfold {
namespace {

using Hash = std::uint64_t;

Hash mix(Hash a, Hash b) {
  a ^= b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2);
  a ^= a >> 30;
  a *= 0xbf58476d1ce4e5b9ULL;
  return a ^ (a >> 27);
}

Hash hash_text(std::string_view text) {
  Hash hash = 1469598103934665603ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return hash;
}

bool commutes(const Node& node) {
  static constexpr std::array kOperators = {"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"};
  return node.domain().empty() && node.inputs().size() == 2 && node.input(0) != nullptr && node.input(1) != nullptr &&
         std::any_of(kOperators.begin(), kOperators.end(), [&](const char* op) { return node.op_type() == op; });
}

template <typename T>
std::string joined(const std::vector<T>& items) {
  return fmt::format("{}", fmt::join(items, ","));
}

// Text of what an attribute says; tensors and subgraphs are looked at elsewhere.
std::string attribute_text(const Attribute& attribute) {
  const AttributeValue& value = attribute.value;
  if (const auto* number = std::get_if<float>(&value)) return fmt::format("{}", *number);
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return fmt::format("{}", *integer);
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* numbers = std::get_if<std::vector<float>>(&value)) return joined(*numbers);
  if (const auto* integers = std::get_if<std::vector<std::int64_t>>(&value)) return joined(*integers);
  if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) return joined(*texts);
  return fmt::format("kind {}", value.index());
}

// Attributes that count heads or channels follow the width; the others say what is computed.
bool follows_width(const std::string& name) {
  return name == "num_heads" || name == "kv_num_heads" || name == "q_num_heads" || name == "qkv_hidden_sizes" ||
         name == "group" || name == "hidden_size" || name == "scale";
}

// Some exporters write defaults out.
bool says_default(const Node& node, const std::string& attribute, const std::string& text) {
  if (node.is("Gemm")) {
    return ((attribute == "transA" || attribute == "transB") && text == "0") ||
           ((attribute == "alpha" || attribute == "beta") && text == "1");
  }
  if (node.is("LayerNormalization"))
    return attribute == "axis" ? text == "-1" : attribute == "stash_type" && text == "1";
  if (node.is("Softmax")) return attribute == "axis" && text == (node.opset() >= 13 ? "-1" : "1");
  if (node.is("Reshape")) return attribute == "allowzero" && text == "0";
  if (node.is("Gather")) return attribute == "axis" && text == "0";
  if (node.is("Shape")) return attribute == "start" && text == "0";
  if (node.is("Cast")) return attribute == "saturate" && text == "1";
  if (node.is("Gelu")) return attribute == "approximate" && text == "none";
  return false;
}

std::map<std::string, std::string> attributes_of(const Node& node) {
  std::map<std::string, std::string> texts;
  for (const Attribute& attribute : node.attributes()) {
    std::string text = attribute_text(attribute);
    if (node.is("Cast") && attribute.name == "to" && is_float(static_cast<DType>(node.attr_int("to", 0)))) {
      text = "floating";  // parents may be stored in different precisions
    }
    if (follows_width(attribute.name) || says_default(node, attribute.name, text)) continue;
    texts[attribute.name] = std::move(text);
  }
  return texts;
}

// A structural name of every value: equal when what makes the values is equal up to constants' contents and widths.
class Signatures {
 public:
  explicit Signatures(const Graph& graph) {
    for (std::size_t i = 0; i < graph.inputs().size(); ++i) {
      if (parameter(graph.inputs()[i]) == nullptr) hashes_[graph.inputs()[i]] = mix(11, data_inputs_++);
    }
    for (const Node* node : graph.nodes()) add(*node);
  }
  Hash of(const Value* value) const {
    if (value == nullptr) return 3;
    if (const Tensor* tensor = parameter(value)) {
      const Hash type = is_float(tensor->dtype()) ? 1 : static_cast<Hash>(tensor->dtype());
      return mix(mix(5, static_cast<Hash>(tensor->rank())), type);
    }
    const auto found = hashes_.find(value);
    return found == hashes_.end() ? hash_text(value->name()) : found->second;
  }

 private:
  void add(const Node& node) {
    std::vector<Hash> operands;
    for (const Value* input : node.inputs()) operands.push_back(of(input));
    if (commutes(node)) std::sort(operands.begin(), operands.end());
    Hash hash = mix(hash_text(node.domain()), hash_text(node.op_type()));
    for (const auto& [name, text] : attributes_of(node)) hash = mix(mix(hash, hash_text(name)), hash_text(text));
    for (const Hash operand : operands) hash = mix(hash, operand);
    for (std::size_t i = 0; i < node.outputs().size(); ++i) {
      if (node.outputs()[i] != nullptr) hashes_[node.outputs()[i]] = mix(hash, i);
    }
  }

  std::unordered_map<const Value*, Hash> hashes_;
  Hash data_inputs_ = 0;
};

std::string described(const Value* value) {
  if (value == nullptr) return "nothing";
  if (const Tensor* tensor = parameter(value)) {
    return fmt::format("constant '{}' {}[{}]", value->name(), name(tensor->dtype()), joined(tensor->dims()));
  }
  if (value->producer() != nullptr) {
    return fmt::format("{} '{}'", value->producer()->op_type(), value->producer()->label());
  }
  return fmt::format("{} '{}'", value->is_graph_input() ? "input" : "value", value->name());
}

class Matcher {
 public:
  Matcher(const Graph& first, const Graph& second)
      : first_(first), second_(second), first_names_(first), second_names_(second) {}

  Result<Correspondence> run() {
    OF_TRY(pair_outputs());
    while (!pending_.empty()) {
      const ConstantPair pair = pending_.back();
      pending_.pop_back();
      OF_TRY(match(pair.first, pair.second));
    }
    sort_constants();
    return std::move(found_);
  }

 private:
  Status differ(const Value* a, const Value* b, const std::string& how) const {
    return fail(Code::kInvalidArgument,
                fmt::format("the models do not correspond: {} against {}: {}", described(a), described(b), how));
  }

  Status pair_outputs() {
    const auto& a = first_.outputs();
    const auto& b = second_.outputs();
    if (a.size() != b.size()) {
      return fail(Code::kInvalidArgument,
                  fmt::format("the models do not correspond: {} and {} outputs", a.size(), b.size()));
    }
    for (std::size_t i = 0; i < b.size(); ++i) {
      const auto same = std::find_if(a.begin(), a.end(), [&](const Value* v) { return v->name() == b[i]->name(); });
      pending_.push_back({same != a.end() ? *same : a[i], b[i]});
    }
    return {};
  }

  // One exporter shares equal constants, the other does not.
  static bool same_constant(const Value* a, const Value* b) {
    const Tensor* x = parameter(a);
    const Tensor* y = parameter(b);
    if (x == nullptr || y == nullptr || x->dtype() != y->dtype() || x->dims() != y->dims()) return false;
    const auto one = x->content_hash(), two = y->content_hash();
    return one && two && *one == *two;
  }

  Status match(Value* a, Value* b) {
    if (const auto known = found_.first_of.find(b); known != found_.first_of.end()) {
      if (known->second == a || same_constant(known->second, a)) return {};
      return differ(a, b, fmt::format("the latter is used where {} stands too", described(known->second)));
    }
    if (const auto known = found_.second_of.find(a); known != found_.second_of.end() && parameter(a) == nullptr) {
      return differ(a, b, fmt::format("the former is used where {} stands too", described(known->second)));
    }
    found_.first_of[b] = a;
    found_.second_of[a] = b;
    const Tensor* x = parameter(a);
    const Tensor* y = parameter(b);
    if ((x == nullptr) != (y == nullptr)) return differ(a, b, "only one of them is constant");
    if (x != nullptr) return match_constants(a, b, *x, *y);
    if ((a->producer() == nullptr) != (b->producer() == nullptr)) return differ(a, b, "only one is computed");
    if (a->producer() == nullptr) return match_inputs(a, b);
    return match_nodes(a, b);
  }

  Status match_constants(Value* a, Value* b, const Tensor& x, const Tensor& y) {
    if (x.dtype() != y.dtype() && !(is_float(x.dtype()) && is_float(y.dtype()))) {
      return differ(a, b, "element types differ");
    }
    if (x.rank() != y.rank()) return differ(a, b, "ranks differ");
    found_.constants.push_back({a, b});
    return {};
  }

  Status match_inputs(const Value* a, const Value* b) const {
    if (first_names_.of(a) == second_names_.of(b)) return {};
    return differ(a, b, "they are different inputs");
  }

  Status match_nodes(const Value* a, const Value* b) {
    const Node& x = *a->producer();
    const Node& y = *b->producer();
    if (x.op_type() != y.op_type() || x.domain() != y.domain()) return differ(a, b, "operators differ");
    if (a->output_index() != b->output_index()) return differ(a, b, "different outputs of their nodes");
    if (operands(x) != operands(y)) {
      return differ(a, b, fmt::format("{} and {} operands", operands(x), operands(y)));
    }
    OF_TRY(match_attributes(a, b));
    const bool swap = commutes(y) && swapped(x, y);
    for (std::size_t i = 0; i < operands(y); ++i) {
      Value* left = x.input(swap ? 1 - i : i);
      Value* right = y.input(i);
      if ((left == nullptr) != (right == nullptr)) return differ(a, b, fmt::format("operand {} is missing in one", i));
      if (left != nullptr) pending_.push_back({left, right});
    }
    return match_subgraphs(a, b);
  }

  static std::size_t operands(const Node& node) {
    std::size_t count = node.inputs().size();
    while (count > 0 && node.input(count - 1) == nullptr) --count;
    return count;
  }

  bool swapped(const Node& x, const Node& y) const {
    const Hash x0 = first_names_.of(x.input(0)), x1 = first_names_.of(x.input(1));
    const Hash y0 = second_names_.of(y.input(0)), y1 = second_names_.of(y.input(1));
    return (x0 != y0 || x1 != y1) && (x0 == y1 || x1 == y0);
  }

  Status match_attributes(const Value* a, const Value* b) const {
    const auto x = attributes_of(*a->producer());
    const auto y = attributes_of(*b->producer());
    for (const auto& [name, text] : y) {
      const auto other = x.find(name);
      const std::string before = other == x.end() ? "absent" : other->second;
      if (before != text) return differ(a, b, fmt::format("attribute {} is {} and {}", name, before, text));
    }
    for (const auto& [name, text] : x) {
      if (y.count(name) == 0) return differ(a, b, fmt::format("attribute {} is {} and absent", name, text));
    }
    return {};
  }

  Status match_subgraphs(const Value* a, const Value* b) {
    const auto x = a->producer()->subgraphs();
    const auto y = b->producer()->subgraphs();
    if (x.size() != y.size()) return differ(a, b, "different numbers of subgraphs");
    for (std::size_t i = 0; i < x.size(); ++i) OF_TRY(match_bodies(a, b, *x[i], *y[i]));
    return {};
  }

  Status match_bodies(const Value* a, const Value* b, const Graph& x, const Graph& y) {
    const auto left = x.nodes();
    const auto right = y.nodes();
    if (left.size() != right.size()) return differ(a, b, "their subgraphs have different numbers of nodes");
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (left[i]->op_type() != right[i]->op_type() || operands(*left[i]) != operands(*right[i])) {
        return differ(left[i]->output(), right[i]->output(), "nodes of their subgraphs differ");
      }
      for (std::size_t j = 0; j < operands(*right[i]); ++j) {
        Value* one = left[i]->input(j);
        Value* two = right[i]->input(j);
        if (one == nullptr || two == nullptr) continue;
        // What is made inside of the body corresponds by place; constants and captured values are matched.
        const bool inner = two->graph() == &y && parameter(two) == nullptr;
        if (!inner) pending_.push_back({one, two});
      }
      OF_TRY(match_subgraphs(left[i]->output(), right[i]->output()));
    }
    return {};
  }

  void sort_constants() {
    std::unordered_map<const Value*, std::size_t> place;
    std::size_t next = 0;
    const auto visit = [&](const Graph& graph, const auto& self) -> void {
      for (const Node* node : graph.nodes()) {
        for (const Value* input : node->inputs()) {
          if (input != nullptr) place.emplace(input, next++);
        }
        for (const Graph* body : node->subgraphs()) self(*body, self);
      }
    };
    visit(second_, visit);
    std::stable_sort(found_.constants.begin(), found_.constants.end(),
                     [&](const ConstantPair& x, const ConstantPair& y) { return place[x.second] < place[y.second]; });
  }

  const Graph& first_;
  const Graph& second_;
  Signatures first_names_, second_names_;
  std::vector<ConstantPair> pending_;
  Correspondence found_;
};

}  // namespace

const Tensor* parameter(const Value* value) {
  if (value == nullptr) return nullptr;
  if (const Tensor* tensor = value->constant()) return tensor;
  return value->initializer();
}

Result<Correspondence> correspond(const Graph& first, const Graph& second) { return Matcher(first, second).run(); }

Result<bool> same_constants(const Graph& first, const Graph& second) {
  OF_ASSIGN(const Correspondence map, correspond(first, second));
  for (const ConstantPair& pair : map.constants) {
    const Tensor& x = *parameter(pair.first);
    const Tensor& y = *parameter(pair.second);
    if (x.same_as(y)) continue;
    if (x.dtype() != y.dtype() || x.dims() != y.dims()) return false;
    OF_ASSIGN(const std::string one, x.content_hash());
    OF_ASSIGN(const std::string two, y.content_hash());
    if (one != two) return false;
  }
  return true;
}

Value* replace_constant(Value& value, Tensor tensor) {
  Graph& graph = *value.graph();
  if (value.is_graph_input()) {
    graph.set_input_default(value, std::move(tensor));
    return &value;
  }
  if (value.is_graph_output()) return nullptr;
  const std::string name = value.name();
  Value* fresh = graph.add_initializer(name, std::move(tensor));
  fresh->doc_string = value.doc_string;
  graph.replace_all_uses(value, *fresh);
  if (value.producer() != nullptr) {
    graph.erase(*value.producer());
  } else {
    graph.erase(value);
  }
  graph.rename(*fresh, name);
  return fresh;
}

}  // namespace onnxfold
