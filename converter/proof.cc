#include "converter/proof.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

std::string failure_text(const GateResult& gate, const Comparison& comparison) {
  std::string text =
      fmt::format("output '{}': {} is {:.6g}, the limit is {:.6g}", gate.output, gate.gate, gate.measured, gate.limit);
  if (gate.output == "task")
    text = fmt::format("{} is {:.6g}, the limit is {:.6g}", gate.gate, gate.measured, gate.limit);
  if (!gate.detail.empty()) text += "; " + gate.detail;
  if (!comparison.first_divergence.empty()) text += "; the models part at " + comparison.first_divergence;
  return text;
}

double largest_error(const Comparison& comparison) {
  double largest = 0;
  for (const OutputMetrics& output : comparison.outputs) largest = std::max(largest, output.max_rel_l2);
  return largest;
}

bool stores_halves(const Model& model) {
  const std::vector<Value*> values = model.graph().values();
  return std::any_of(values.begin(), values.end(), [](const Value* value) {
    return value->constant() != nullptr && (value->dtype() == DType::kFloat16 || value->dtype() == DType::kBFloat16);
  });
}

// Models agree on nothing at all: such a check cannot fail.
Status check_that_something_was_compared(const Comparison& comparison) {
  std::string where;
  for (const OutputMetrics& output : comparison.outputs) {
    if (output.compared > 0 || output.shape_or_type_differs) return {};
    const char* what = output.elements == 0 ? "is empty" : "is NaN or infinite everywhere";
    where += fmt::format("{}output '{}' {}", where.empty() ? "" : ", ", output.output, what);
  }
  if (where.empty()) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("nothing can be compared on this data ({}): {} in the original model; give other --data",
                          comparison.data_origin, where));
}

void set_passed(Proof& proof) {
  proof.passed =
      std::all_of(proof.gates.begin(), proof.gates.end(), [](const GateResult& gate) { return gate.passed; });
}

// The gates of a run without gates of the user's.
Status check_defaults(const Model& after, const ProofOptions& options, Proof& proof) {
  const double limit = tolerance(Exactness::kRounding, true);
  const bool rounding = options.exactness == Exactness::kRounding;
  if (rounding && largest_error(proof.comparison) <= limit) {
    Gates strict;
    strict.max_rel_l2 = limit;
    proof.why = "proved in float64";
    proof.gates = check_gates(strict, proof.comparison);
    return {};
  }
  if (rounding && options.error_in_double) {
    OF_ASSIGN(const std::optional<double> error, options.error_in_double());
    if (error) {
      proof.gates = check_gates(rounded_weights_gates(stores_halves(after), proof.why), proof.comparison);
      proof.gates.insert(proof.gates.begin(), {kInDoubleGate, "all outputs", limit, *error, *error <= limit, ""});
      return {};
    }
  }
  proof.gates = check_gates(default_gates(options.exactness, proof.comparison, proof.why), proof.comparison);
  return {};
}

// Only after a failure is it worth running with taps. The comparison stands even when that fails (memory).
void locate(const Model& before, const Model& after, const Dataset& data, Exactness exactness, CompareOptions options,
            Comparison& comparison) {
  options.locate = true;
  options.progress = nullptr;
  options.locate_tolerance = exactness == Exactness::kLossy ? 0.05 : tolerance(exactness, false);
  Dataset first = data;
  first.batches.resize(1);
  first.batch_sizes.resize(1);
  if (const auto located = compare_models(before, after, first, options)) {
    comparison.first_divergence = located->first_divergence;
  }
}

}  // namespace

Result<Proof> prove(const Model& before, const Model& after, const Dataset& data, const ProofOptions& options) {
  CompareOptions compare;
  compare.precision = options.exactness == Exactness::kLossy ? Precision::kFloat32 : Precision::kFloat64;
  compare.progress = options.progress;
  compare.fewer = options.fewer;
  compare.padding = options.exactness != Exactness::kLossy;  // who promises the same numbers promises all of them
  Proof proof;
  OF_ASSIGN(proof.comparison, compare_models(before, after, data, compare));
  OF_TRY(check_that_something_was_compared(proof.comparison));
  if (options.gates.empty()) {
    OF_TRY(check_defaults(after, options, proof));
  } else {
    proof.gates = check_gates(options.gates, proof.comparison);
  }
  set_passed(proof);
  if (proof.passed) return proof;
  locate(before, after, data, options.exactness, compare, proof.comparison);
  const auto failed =
      std::find_if(proof.gates.begin(), proof.gates.end(), [](const GateResult& gate) { return !gate.passed; });
  proof.why = failure_text(*failed, proof.comparison);
  return proof;
}

}  // namespace onnxfold
