#include "analysis/structure/scores.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/structure/region.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxDepth = 24;

bool is_product(const Node& node) {
  const bool product =
      node.is("MatMul") || node.is("FusedMatMul", "com.microsoft") || (node.is("Einsum") && node.inputs().size() == 2);
  return product && node.input(0) != nullptr && node.input(1) != nullptr && constant(node.input(0)) == nullptr &&
         constant(node.input(1)) == nullptr && !linear_at(node);
}

// Spaces removed; "bhqd,bhkd->bhqk": the last two letters of each operand and of the result.
bool einsum_scores(std::string equation, bool& key_transposed) {
  std::erase(equation, ' ');
  const auto comma = equation.find(','), arrow = equation.find("->");
  if (comma == std::string::npos || arrow == std::string::npos || comma < 2 || arrow < comma + 3) return false;
  const std::string q = equation.substr(0, comma), k = equation.substr(comma + 1, arrow - comma - 1);
  const std::string r = equation.substr(arrow + 2);
  if (r.size() < 2 || q.size() < 2 || k.size() < 2) return false;
  const char row = r[r.size() - 2], column = r.back(), width = q.back();
  if (q[q.size() - 2] != row || q.substr(0, q.size() - 2) != r.substr(0, r.size() - 2)) return false;
  key_transposed = k.back() == width && k[k.size() - 2] == column;
  return key_transposed || (k.back() == column && k[k.size() - 2] == width);
}

class ScoreWalk {
 public:
  explicit ScoreWalk(StructureContext& context) : context_(context) {}

  // The score product behind `value` through element-wise steps; the steps are kept in `scores`.
  bool walk(Value* value, Scores& scores, int depth = 0) {
    Node* node = value == nullptr ? nullptr : value->producer();
    if (node == nullptr || depth > kMaxDepth) return false;
    if (is_product(*node)) return take_product(*node, scores);
    if (node->is("Where")) return where(*node, scores, depth);
    if (node->is("Add") || node->is("Sub")) return masked(*node, scores, depth);
    if (node->is("Mul") || node->is("Div")) return scaled(*node, scores, depth);
    if (node->is("Tanh")) return capped(*node, scores, depth);
    const bool passes = node->is("Cast") || node->is("Reshape") || node->is("Squeeze") || node->is("Unsqueeze") ||
                        node->is("Identity") || node->is("Max") || node->is("Clip") || node->is("Dropout");
    return passes && step(*node, node->input(0), scores, depth);
  }

 private:
  bool step(Node& node, Value* next, Scores& scores, int depth) {
    if (!walk(next, scores, depth + 1)) return false;
    scores.nodes.push_back(&node);
    return true;
  }

  bool take_product(Node& node, Scores& scores) {
    scores.product = &node;
    if (node.is("FusedMatMul", "com.microsoft")) {
      if (node.attr_int("transA", 0) != 0 || node.attr_int("transBatchA", 0) != 0) return false;
      if (node.attr_int("transBatchB", 0) != 0) return false;
      scores.key_transposed = node.attr_int("transB", 0) != 0;
      scores.scale *= static_cast<double>(node.attr_float("alpha", 1));
    }
    return !node.is("Einsum") || einsum_scores(node.attr_string("equation", ""), scores.key_transposed);
  }

  // Of two operands the one that leads to a product is the scores; both do in relative-position attention.
  bool masked(Node& node, Scores& scores, int depth) {
    Scores left = scores, right = scores;
    const bool in_left = walk(node.input(0), left, depth + 1);
    const bool in_right = node.is("Add") && walk(node.input(1), right, depth + 1);
    if (in_left && in_right) scores.problem = node.label() + " adds two products";
    if (in_left == in_right) return false;
    scores = in_left ? left : right;
    scores.masks.push_back(node.input(in_left ? 1 : 0));
    scores.nodes.push_back(&node);
    return true;
  }

  bool scaled(Node& node, Scores& scores, int depth) {
    Value* data = nullptr;
    if (const auto factor = scalar_factor(node, context_.numbers, data)) {
      scores.scale *= *factor;
      return step(node, data, scores, depth);
    }
    for (std::size_t i = 0; i < (node.is("Mul") ? 2U : 1U); ++i) {
      Scores attempt = scores;
      attempt.scale_known = false;
      if (!step(node, node.input(i), attempt, depth)) continue;
      scores = attempt;
      return true;
    }
    return false;
  }

  bool where(Node& node, Scores& scores, int depth) {
    for (std::size_t i = 1; i < 3; ++i) {
      const auto hidden = context_.numbers.scalar(node.input(3 - i));
      Scores attempt = scores;
      if (!hidden || !step(node, node.input(i), attempt, depth)) continue;
      scores = attempt;
      scores.masks.push_back(node.input(0));
      scores.mask_value = *hidden;
      return true;
    }
    return false;
  }

  // c * tanh(s / c): the factors after the Tanh tell c; those before it undo it in the scale, wherever they stand (in
  // a Mul, or in the alpha of a FusedMatMul).
  bool capped(Node& node, Scores& scores, int depth) {
    if (scores.softcap != 0 || !scores.scale_known) return false;
    scores.softcap = scores.scale;
    return step(node, node.input(0), scores, depth);
  }

  StructureContext& context_;
};

bool is_nan_guard(const Node& where, const Value* value) {
  const Node* test = where.input(0) == nullptr ? nullptr : where.input(0)->producer();
  return test != nullptr && test->is("IsNaN") && test->input(0) == value;
}

// The reader of probabilities; IsNaN and its Where count as one.
Node* probability_reader(const Value* value) {
  Node* found = nullptr;
  for (const Use& use : value->uses()) {
    if (use.node == nullptr || use.node->is("Shape") || use.node->is("IsNaN") || use.node == found) continue;
    if (found != nullptr || use.node->graph() != value->graph()) return nullptr;
    found = use.node;
  }
  return found;
}

bool hides_later_positions(const Tensor& tensor) {
  if (tensor.rank() < 2 || tensor.size() > 1 << 22 || tensor.dtype() == DType::kString) return false;
  const std::int64_t rows = tensor.dims()[tensor.dims().size() - 2], cols = tensor.dims().back();
  if (rows < 2 || rows != cols || tensor.size() != rows * cols) return false;
  const auto numbers = to_doubles(tensor);
  if (!numbers) return false;
  const auto at = [&](std::int64_t row, std::int64_t col) {
    return (*numbers)[static_cast<std::size_t>(row * cols + col)];
  };
  const double open = at(0, 0), hidden = at(0, 1);
  if (open == hidden) return false;
  for (std::int64_t row = 0; row < rows; ++row) {
    if (at(row, row) != open) return false;
    for (std::int64_t col = row + 1; col < cols; ++col) {
      if (at(row, col) != hidden) return false;
    }
  }
  return true;
}

bool compares(const Node& node) {
  return node.is("Less") || node.is("LessOrEqual") || node.is("Greater") || node.is("GreaterOrEqual");
}

// Counted positions: a Range, a CumSum or a constant 0, 1, 2... behind operators that move.
bool is_positions(const Value* value, int depth = 0) {
  if (value == nullptr || depth > kMaxDepth) return false;
  if (const Tensor* tensor = constant(value)) {
    const auto numbers = int_constants(value);
    if (!numbers || tensor->size() < 2) return false;
    for (std::size_t i = 0; i < numbers->size(); ++i) {
      if ((*numbers)[i] != numbers->front() + static_cast<std::int64_t>(i)) return false;
    }
    return true;
  }
  const Node* node = value->producer();
  if (node == nullptr) return value->is_graph_input();
  if (node->is("Range") || node->is("CumSum")) return true;
  if (node->is("Add") || node->is("Sub")) {
    return is_positions(node->input(0), depth + 1) || is_positions(node->input(1), depth + 1);
  }
  return (moves_elements(*node) || node->is("Cast")) && is_positions(node->input(0), depth + 1);
}

}  // namespace

Scores trace_scores(Value* softmax_input, StructureContext& context) {
  Scores scores;
  if (ScoreWalk(context).walk(softmax_input, scores)) return scores;
  Scores failed;
  failed.problem = scores.problem.empty() ? "its input is not a masked and scaled product" : scores.problem;
  return failed;
}

Context trace_context(Value* probabilities) {
  Context context;
  Value* at = probabilities;
  for (int depth = 0; depth < kMaxDepth; ++depth) {
    Node* node = probability_reader(at);
    if (node == nullptr) return {};
    const bool fused = node->is("FusedMatMul", "com.microsoft");
    if ((node->is("MatMul") || fused || (node->is("Einsum") && node->inputs().size() == 2)) && node->input(0) == at) {
      if (fused && (node->attr_int("transA", 0) != 0 || node->attr_int("transB", 0) != 0)) return {};
      context.product = node;
      context.values = node->input(1);
      return context;
    }
    const bool guard = node->is("Where") && is_nan_guard(*node, at);
    const bool passes = node->is("Cast") || node->is("Dropout") || node->is("Identity") || node->is("Reshape") ||
                        node->is("Squeeze") || node->is("Unsqueeze") || guard;
    if (!passes || node->output() == nullptr) return {};
    if (guard) context.nodes.push_back(node->input(0)->producer());
    context.nodes.push_back(node);
    at = node->output();
  }
  return {};
}

bool is_triangular(const Value* mask) {
  std::vector<const Value*> open = {mask};
  std::set<const Value*> seen;
  while (!open.empty() && seen.size() < 300) {
    const Value* value = open.back();
    open.pop_back();
    if (value == nullptr || !seen.insert(value).second) continue;
    const Tensor* tensor = constant(value);
    if (tensor != nullptr && hides_later_positions(*tensor)) return true;
    const Node* node = value->producer();
    if (node == nullptr || node->is("Shape")) continue;
    if (node->is("Trilu")) return true;
    if (compares(*node) && is_positions(node->input(0)) && is_positions(node->input(1))) return true;
    open.insert(open.end(), node->inputs().begin(), node->inputs().end());
  }
  return false;
}

}  // namespace onnxfold
