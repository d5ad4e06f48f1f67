#include "converter/bisect.h"

#include <fmt/format.h>

#include "passes/registry.h"

namespace onnxfold {
namespace {

struct Snapshot {
  std::string pass;
  std::unique_ptr<Model> model;
};

Result<std::vector<Snapshot>> run_with_snapshots(const Model& before, const Recipe& recipe, PipelineOptions pipeline) {
  std::vector<Snapshot> snapshots;
  snapshots.push_back({"", before.clone()});
  pipeline.on_pass = nullptr;
  pipeline.after_changed = [&](const std::string& pass, const Model& model) -> Status {
    snapshots.push_back({pass, model.clone()});
    return {};
  };
  const std::unique_ptr<Model> work = before.clone();
  OF_TRY(run_pipeline(*work, recipe, pipeline));
  return snapshots;
}

}  // namespace

std::string to_string(const Culprit& culprit) {
  std::string text = fmt::format("{} (change {} of {}): {}", culprit.pass, culprit.run, culprit.runs, culprit.why);
  if (!culprit.divergence.empty()) text += "; it moves first " + culprit.divergence;
  return text;
}

Result<Culprit> bisect(const Model& before, const Recipe& recipe, const Dataset& data, const ProofOptions& options,
                       const PipelineOptions& pipeline) {
  OF_ASSIGN(const std::vector<Snapshot> snapshots, run_with_snapshots(before, recipe, pipeline));
  const std::size_t last = snapshots.size() - 1;
  if (last == 0) return fail(Code::kInternal, "bisect: no pass changed the model");
  std::size_t good = 0, bad = last;
  Culprit culprit;
  while (bad - good > 1 || culprit.why.empty()) {
    const std::size_t middle = bad - good > 1 ? good + (bad - good) / 2 : bad;
    OF_ASSIGN(const Proof proof, prove(before, *snapshots[middle].model, data, options));
    if (middle == bad && proof.passed) return fail(Code::kInternal, "bisect: the result passes its check");
    (proof.passed ? good : bad) = middle;
    if (!proof.passed) culprit.why = proof.why;
  }
  culprit.pass = snapshots[bad].pass;
  culprit.run = static_cast<int>(bad);
  culprit.runs = static_cast<int>(last);
  // Against the model right before it, so that earlier passes' errors do not hide where this one begins.
  ProofOptions strict;
  strict.exactness = find_pass(culprit.pass)->exactness;
  strict.gates.max_abs = 0;
  OF_ASSIGN(const Proof step, prove(*snapshots[good].model, *snapshots[bad].model, data, strict));
  culprit.divergence = step.comparison.first_divergence;
  return culprit;
}

}  // namespace onnxfold
