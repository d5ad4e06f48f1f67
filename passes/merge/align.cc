// Pass align: the weights of a model => those in the basis of another model (to=A.onnx), same graph, same function.
// Rounding: permutations of hidden units and heads, rotations of the residual stream and inside of heads (alignment.h).
//
// Method align of `onnxfold merge`: every model is brought into the anchor's basis (alignment.h), the weights are
// averaged, and with data the merged model is repaired (repair.h). permute: the same with permutations only (Git
// Re-Basin).
#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/correspondence.h"
#include "formats/onnx/onnx_file.h"
#include "formats/onnx/schema.h"
#include "passes/folded_norms.h"
#include "passes/merge/alignment.h"
#include "passes/merge/candidate.h"
#include "passes/merge/kinship.h"
#include "passes/merge/method.h"
#include "passes/merge/respell.h"

namespace onnxfold {
namespace {

class Align {
 public:
  Align(WholeMergeInput input, const PassOptions& options, bool rotate)
      : input_(std::move(input)), options_(options), rotate_(rotate) {}

  Result<WholeMerge> run() {
    const bool repaired = options_.text("repair") != "none";
    if (repaired && input_.calibration == nullptr) {
      note("no data was given: aligned by weights only, not repaired");
    }
    OF_TRY(find_tuned());
    std::vector<int> sweeps = {static_cast<int>(options_.integer("sweeps"))};
    const bool moves = std::find(stay_.begin(), stay_.end(), 0) != stay_.end();
    if (moves && input_.calibration != nullptr && sweeps.front() > 0) sweeps.insert(sweeps.begin(), 0);
    std::vector<Candidate> candidates;
    for (const int count : sweeps) {
      OF_ASSIGN(Candidate made, candidate(count));
      candidates.push_back(std::move(made));
    }
    OF_TRY(take_best(candidates, input_, options_, result_));
    return std::move(result_);
  }

 private:
  void note(std::string text) { result_.notes.push_back(std::move(text)); }

  // Models tuned from one base correspond as they stand: a map that brought them closer would take away what tuning
  // changed.
  Status find_tuned() {
    for (std::size_t i = 0; i + 1 < input_.parents.size(); ++i) {
      OF_ASSIGN(const Kinship kin, kinship(*input_.parents[i], *input_.parents.back()));
      const bool stays = options_.text("tuned") == "stay" && kin.tuned_from_one_base();
      stay_.push_back(stays ? 1 : 0);
      if (!stays) continue;
      note(
          fmt::format("model {} and the anchor were tuned from one base (median cosine of their weights {:.3f}): it "
                      "stays in its order",
                      i + 1, kin.cosine));
    }
    return {};
  }

  Result<Candidate> candidate(int sweeps) {
    Candidate made;
    made.name = std::find(stay_.begin(), stay_.end(), 0) == stay_.end() ? "as they are"
                : input_.calibration == nullptr                         ? "aligned by weights"
                : sweeps == 0                                           ? "aligned by activations"
                                                                        : "aligned by activations, then weights";
    Model& anchor = *input_.parents.back();
    for (std::size_t i = 0; i + 1 < input_.parents.size(); ++i) {
      if (stay_[i] != 0) {
        unshare_vectors(input_.parents[i]->graph());
        unshare_vectors(anchor.graph());
        made.aligned.push_back(input_.parents[i]->clone());
        continue;
      }
      AlignmentOptions alignment{rotate_, input_.calibration, sweeps};
      auto aligned = align_model(*input_.parents[i], anchor, alignment);
      if (!aligned) return fail(aligned.error().in(fmt::format("model {}", i + 1)));
      made.aligned.push_back(std::move(aligned->model));
      for (MergeLayer& layer : aligned->layers) made.layers.push_back(std::move(layer));
    }
    OF_TRY(average_parents(made, input_));
    return made;
  }

  WholeMergeInput input_;
  const PassOptions& options_;
  const bool rotate_;
  std::vector<char> stay_;  // a parent each but the anchor
  WholeMerge result_;
};

// Both read the data: same names and types of inputs.
bool same_inputs(const Model& a, const Model& b) {
  for (const Value* input : a.graph().inputs()) {
    const Value* other = b.graph().find(input->name());
    if (other == nullptr || !other->is_graph_input() || other->dtype() != input->dtype()) return false;
  }
  return true;
}

Result<bool> weights_differ(const Model& a, const Model& b) {
  for (const Value* value : b.graph().values()) {
    const Tensor* tensor = parameter(value);
    if (tensor == nullptr) continue;
    const Tensor* other = parameter(a.graph().find(value->name()));
    if (other == nullptr || other->same_as(*tensor)) continue;
    OF_ASSIGN(const std::string one, other->content_hash());
    OF_ASSIGN(const std::string two, tensor->content_hash());
    if (one != two) return true;
  }
  return false;
}

// The model of `path` with the graph of `model`. Only its weights count here, so it may come from another exporter, and
// its norms are folded where those of `model` are.
Result<std::unique_ptr<Model>> anchor_like(const Model& model, const std::string& path) {
  OF_ASSIGN(std::unique_ptr<Model> anchor, load_model(path));
  if (correspond(anchor->graph(), model.graph())) return anchor;
  OF_TRY(infer_shapes(*anchor));
  auto written = respelled(*anchor, model);
  if (written) return written;
  PassContext unheard(*anchor, "");
  OF_ASSIGN(const bool folded, fold_norms(*anchor, unheard));
  if (folded) {
    anchor->graph().purge();
    OF_TRY(infer_shapes(*anchor));
    if (correspond(anchor->graph(), model.graph())) return anchor;
    if (auto again = respelled(*anchor, model)) return again;
  }
  return fail(written.error().in(path));
}

class AlignPass final : public Pass {
 public:
  explicit AlignPass(const PassOptions& options)
      : to_(options.text("to")),
        rotate_(options.flag("rotate")),
        sweeps_(static_cast<int>(options.integer("sweeps"))) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    Model& model = context.model();
    if (&graph != &model.graph()) return false;
    if (to_.empty()) return fail(Code::kInvalidArgument, "align needs to=A.onnx: the model whose basis is taken");
    OF_ASSIGN(const std::unique_ptr<Model> anchor, anchor_like(model, to_));
    const std::unique_ptr<Model> copy = model.clone();
    const bool data = context.calibration != nullptr && same_inputs(model, *anchor);
    OF_ASSIGN(const Alignment aligned,
              align_model(*copy, *anchor, {rotate_, data ? context.calibration : nullptr, sweeps_}));
    OF_ASSIGN(const bool changed, weights_differ(model, *aligned.model));
    if (!changed) return false;
    for (const MergeLayer& layer : aligned.layers) {
      context.note(layer.name, fmt::format("{}: similarity {:.3f} -> {:.3f}", layer.kind, layer.before, layer.after));
    }
    model.adopt_graph(*aligned.model);
    return true;
  }

 private:
  std::string to_;
  bool rotate_;
  int sweeps_;
};

}  // namespace

std::unique_ptr<Pass> make_align(const PassOptions& options) { return std::make_unique<AlignPass>(options); }

Result<WholeMerge> align(WholeMergeInput input, const PassOptions& options) {
  return Align(std::move(input), options, true).run();
}

Result<WholeMerge> permute(WholeMergeInput input, const PassOptions& options) {
  return Align(std::move(input), options, false).run();
}

}  // namespace onnxfold
