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

bool all_passed(const std::vector<GateResult>& gates) {
  return std::all_of(gates.begin(), gates.end(), [](const GateResult& gate) { return gate.passed; });
}

}  // namespace

Result<Proof> prove(const Model& before, const Model& after, const Dataset& data, const Gates& user_gates,
                    Exactness exactness) {
  CompareOptions options;
  options.precision = exactness == Exactness::kLossy ? Precision::kFloat32 : Precision::kFloat64;
  Proof proof;
  OF_ASSIGN(proof.comparison, compare_models(before, after, data, options));
  Gates gates = user_gates;
  if (gates.empty()) gates = default_gates(exactness, proof.comparison, proof.why);
  proof.gates = check_gates(gates, proof.comparison);
  proof.passed = all_passed(proof.gates);
  if (proof.passed) return proof;
  // Only now is it worth running with taps. The comparison stands even when that fails (memory).
  options.locate = true;
  options.locate_tolerance = exactness == Exactness::kLossy ? 0.05 : tolerance(exactness, false);
  Dataset first = data;
  first.batches.resize(1);
  first.batch_sizes.resize(1);
  if (const auto located = compare_models(before, after, first, options)) {
    proof.comparison.first_divergence = located->first_divergence;
  }
  const auto failed =
      std::find_if(proof.gates.begin(), proof.gates.end(), [](const GateResult& gate) { return !gate.passed; });
  proof.why = failure_text(*failed, proof.comparison);
  return proof;
}

}  // namespace onnxfold
