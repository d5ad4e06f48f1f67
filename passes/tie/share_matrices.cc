#include "passes/tie/share_matrices.h"

#include <fmt/format.h>

#include <cmath>
#include <map>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::size_t kStripe = 64;  // rows and columns looked at together

bool matrix(const Value* value) {
  const Tensor* tensor = constant(value);
  if (tensor == nullptr || tensor->rank() != 2 || tensor->size() == 0 || !is_float(tensor->dtype())) return false;
  const bool whole_bytes = *packed_bytes(tensor->dtype(), 1) * tensor->size() == tensor->nbytes();
  return whole_bytes && value->producer() == nullptr && value->quantization.empty() && !tensor->is_deferred();
}

// Product nodes whose operand 1 is `value`, a constant that nothing else reads.
std::vector<Node*> products_of(const Value& value) {
  std::vector<Node*> found;
  for (const Use& use : value.uses()) {
    const bool product = use.node != nullptr && use.index == 1 && use.node->graph() == value.graph() &&
                         (use.node->is("MatMul") || use.node->is("Gemm"));
    if (!product) return {};
    found.push_back(use.node);
  }
  return found;
}

bool is_table(const Value& value) {
  for (const Use& use : value.uses()) {
    if (use.node != nullptr && use.node->is("Gather") && use.index == 0 && use.node->attr_int("axis", 0) == 0) {
      return true;
    }
  }
  return false;
}

// Bytes of element i, j of one against j, i of the other.
bool equal_transposed(const Bytes& a, const Bytes& b, std::size_t rows, std::size_t columns, std::size_t size) {
  const std::byte *x = a.data(), *y = b.data();
  for (std::size_t r0 = 0; r0 < rows; r0 += kStripe) {
    for (std::size_t c0 = 0; c0 < columns; c0 += kStripe) {
      for (std::size_t r = r0; r < std::min(rows, r0 + kStripe); ++r) {
        for (std::size_t c = c0; c < std::min(columns, c0 + kStripe); ++c) {
          if (!std::equal(x + (r * columns + c) * size, x + (r * columns + c + 1) * size, y + (c * rows + r) * size)) {
            return false;
          }
        }
      }
    }
  }
  return true;
}

// Largest difference over largest magnitude; infinite when a number is not finite in only one of them.
double distance(const std::vector<float>& table, const std::vector<float>& head, std::size_t rows, std::size_t columns,
                bool transposed) {
  double largest = 0, off = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < columns; ++c) {
      const double x = table[r * columns + c], y = head[transposed ? c * rows + r : r * columns + c];
      if (x == y || (std::isnan(x) && std::isnan(y))) {
        if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
        continue;
      }
      if (!std::isfinite(x) || !std::isfinite(y)) return INFINITY;
      largest = std::max(largest, std::abs(x));
      off = std::max(off, std::abs(x - y));
    }
  }
  return off == 0 ? 0 : off / largest;
}

class Sharing {
 public:
  explicit Sharing(const ShareMatrices& how) : all_(how.all), tolerance_(how.tolerance) {}

  Result<bool> run(Graph& graph, PassContext& context) const {
    bool changed = false;
    for (Value* head : graph.initializers()) {
      if (head->erased() || !matrix(head) || products_of(*head).empty()) continue;
      OF_ASSIGN(const bool tied, tie(graph, *head, context));
      changed = changed || tied;
    }
    return changed;
  }

 private:
  struct Match {
    Value* table = nullptr;
    bool transposed = false;
    double distance = 0;
  };

  Result<bool> tie(Graph& graph, Value& head, PassContext& context) const {
    OF_ASSIGN(const Match match, partner(graph, head, context));
    if (match.table == nullptr) return false;
    const std::int64_t bytes = head.constant()->nbytes();
    const std::string name = head.name();
    for (Node* product : products_of(head)) read(graph, *product, match);
    graph.erase(head);
    std::string how = match.transposed ? "is '{}' transposed" : "is '{}'";
    std::string text = fmt::format(fmt::runtime(how), match.table->name());
    if (match.distance > 0) text += fmt::format(" within {:.2g} of its largest magnitude", match.distance);
    context.applied(name, text, bytes, 0);
    return true;
  }

  Result<Match> partner(Graph& graph, const Value& head, PassContext& context) const {
    for (Value* table : graph.initializers()) {
      if (table == &head || !matrix(table) || (!all_ && !is_table(*table))) continue;
      if (table->constant()->dtype() != head.constant()->dtype()) continue;
      for (const bool transposed : {true, false}) {
        if (!fits(*table, head, transposed)) continue;
        OF_ASSIGN(const std::optional<double> off, compared(*table, head, transposed));
        if (!off) continue;
        if (*off <= tolerance_.value_or(0)) return Match{table, transposed, *off};
        context.skipped(head.name(),
                        fmt::format("differs from '{}' by {:.2g} of its largest magnitude", table->name(), *off));
      }
    }
    return Match{};
  }

  // Equal constants in the same layout are the business of merge-initializers, unless they are only nearly equal.
  bool fits(const Value& table, const Value& head, bool transposed) const {
    const Dims &a = table.constant()->dims(), &b = head.constant()->dims();
    return transposed ? a[0] == b[1] && a[1] == b[0] : a == b && tolerance_.has_value();
  }

  // How far apart they are; nullopt when they are not equal and that is all that matters.
  Result<std::optional<double>> compared(const Value& table, const Value& head, bool transposed) const {
    const auto rows = static_cast<std::size_t>(table.constant()->dims()[0]);
    const auto columns = static_cast<std::size_t>(table.constant()->dims()[1]);
    if (!tolerance_) {
      OF_ASSIGN(const Bytes a, table.constant()->bytes());
      OF_ASSIGN(const Bytes b, head.constant()->bytes());
      const bool equal = equal_transposed(a, b, rows, columns, a.size() / (rows * columns));
      return equal ? std::optional<double>(0) : std::nullopt;
    }
    OF_ASSIGN(const std::vector<float> a, to_floats(*table.constant()));
    OF_ASSIGN(const std::vector<float> b, to_floats(*head.constant()));
    return std::optional<double>(distance(a, b, rows, columns, transposed));
  }

  static void read(Graph& graph, Node& product, const Match& match) {
    // A Transpose also for Gemm: with transB turned it would sum in another order (fold-gemm-transpose does that).
    Value* weight = match.transposed ? transposed_table(graph, product, *match.table) : match.table;
    graph.set_input(product, 1, weight);
  }

  static Value* transposed_table(Graph& graph, const Node& before, Value& table) {
    Value* made = insert_transpose(graph, before, table);
    made->producer()->name = table.name() + "_transposed";
    return made;
  }

  bool all_;
  std::optional<double> tolerance_;
};

}  // namespace

Result<bool> share_matrices(Graph& graph, const ShareMatrices& how, PassContext& context) {
  return Sharing(how).run(graph, context);
}

}  // namespace onnxfold
