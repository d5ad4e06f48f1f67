// Method ot of `onnxfold merge`: Transformer Fusion with Optimal Transport (Imfeld et al., ICLR 2024; Singh and Jaggi,
// NeurIPS 2020). Every model is carried over into the anchor's neurons (transport_flow.h) and averaged there.
#include <fmt/format.h>

#include "passes/merge/candidate.h"
#include "passes/merge/method.h"
#include "passes/merge/transport_flow.h"

namespace onnxfold {
namespace {

struct NamedPolicy {
  const char* name;
  ResidualPolicy policy;
};
constexpr NamedPolicy kPolicies[] = {
    {"mean", ResidualPolicy::kMean},
    {"weighted-scalar", ResidualPolicy::kWeightedScalar},
    {"weighted-matrix", ResidualPolicy::kWeightedMatrix},
    {"no-resid", ResidualPolicy::kNoResidual},
    {"only-resid", ResidualPolicy::kOnlyResidual},
    {"identity", ResidualPolicy::kIdentity},
};

class Transport {
 public:
  Transport(WholeMergeInput input, const PassOptions& options) : input_(std::move(input)), options_(options) {}

  Result<WholeMerge> run() {
    OF_TRY(choose());
    std::vector<Candidate> candidates;
    for (const NamedPolicy& policy : policies_) {
      transport_.policy = policy.policy;
      OF_ASSIGN(Candidate made, candidate(policy.name));
      candidates.push_back(std::move(made));
    }
    OF_TRY(take_best(candidates, input_, options_, result_));
    return std::move(result_);
  }

 private:
  Status choose() {
    transport_.data = input_.calibration;
    const std::string features = options_.text("features");
    const bool data = input_.calibration != nullptr;
    if (features == "activations" && !data) {
      return fail(Code::kInvalidArgument, "features=activations needs data: give --calibration, or features=weights");
    }
    transport_.activations = features == "activations" || (features == "auto" && data);
    if (features == "auto" && !data) result_.notes.emplace_back("no data was given: features are weights");
    transport_.exact = options_.text("solver") == "exact";
    const double lambda = options_.number("lambda");
    transport_.lambda = lambda > 0 ? lambda : transport_.activations ? 0.08 : 0.06;
    const std::string scores = options_.text("scores");
    transport_.scores = scores == "common"  ? TransportOptions::Scores::kCommon
                        : scores == "joint" ? TransportOptions::Scores::kJoint
                                            : TransportOptions::Scores::kSeparate;
    transport_.heads_apart = options_.text("heads") == "apart";
    transport_.all_positions = options_.text("positions") == "all";
    const std::string policy = options_.text("policy");
    for (const NamedPolicy& each : kPolicies) {
      const bool tried = policy == "auto" &&
                         (each.policy == ResidualPolicy::kMean || (data && each.policy == ResidualPolicy::kNoResidual));
      if (tried || policy == each.name) policies_.push_back(each);
    }
    if (policy.rfind("weighted", 0) == 0 && !data) {
      return fail(Code::kInvalidArgument, fmt::format("policy={} needs data: give --calibration", policy));
    }
    return {};
  }

  Result<Candidate> candidate(const std::string& policy) {
    Candidate made;
    made.name = fmt::format("policy {}", policy);
    Model& anchor = *input_.parents.back();
    for (std::size_t i = 0; i + 1 < input_.parents.size(); ++i) {
      auto moved = transport_model(*input_.parents[i], anchor, transport_);
      if (!moved) return fail(moved.error().in(fmt::format("model {}", i + 1)));
      made.aligned.push_back(std::move(moved->model));
      for (MergeLayer& layer : moved->layers) made.layers.push_back(std::move(layer));
      if (noted_) continue;
      for (std::string& note : moved->notes) result_.notes.push_back(std::move(note));
    }
    noted_ = true;
    OF_TRY(average_parents(made, input_));
    return made;
  }

  WholeMergeInput input_;
  const PassOptions& options_;
  TransportOptions transport_;
  std::vector<NamedPolicy> policies_;
  bool noted_ = false;
  WholeMerge result_;
};

}  // namespace

Result<WholeMerge> ot(WholeMergeInput input, const PassOptions& options) {
  return Transport(std::move(input), options).run();
}

}  // namespace onnxfold
