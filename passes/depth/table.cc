#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_drop_blocks(const PassOptions&);
std::unique_ptr<Pass> make_ensemble_scale(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kDropBlocksOptions[] = {
    {"count", kInt, "0", "How many to remove; which is chosen on the calibration data", "0.."},
    {"ratio", kFloat, "0", "The same as a share of all that could go in the model, rounded up", "0..1"},
    {"blocks", kPatterns, "", "Which to remove, by number as `inspect` and `analyze --depth` show them (3;8)"},
    {"what", kChoice, "block", "Whole blocks, or only their attention or feed-forward layers",
     "block|attention|feed-forward"},
    {"choice", kChoice, "loss",
     "loss: of the model without it (KL to the original where the data has no labels or tokens); kl; macro: cosine of "
     "the final hidden state; influence: cosine of its input and output; window: neighbours whose ends are closest",
     "loss|kl|macro|influence|window"},
    {"heal", kChoice, "ridge-stream",
     "ridge-down: the down projection in front of the gap is solved anew; ridge-stream: and all that is behind it; "
     "replaceme: a map folded into that projection; linear-patch: a product in the gap; ensemble-scale: what the head "
     "reads of each path is scaled; none",
     "none|ridge-down|ridge-stream|replaceme|linear-patch|ensemble-scale"},
    {"protect-first", kInt, "-1", "Blocks at the start of a stream that must stay; -1: two", "-1.."},
    {"protect-last", kInt, "-1", "Blocks at its end; -1: one, none where the loss or KL decides", "-1.."},
    {"score-samples", kInt, "32", "Samples that choose, in whole batches; 0: all", "0.."},
};

constexpr OptionSpec kEnsembleScaleOptions[] = {
    {"scale", kChoice, "channel", "One scale for each path and channel, or one for each path", "channel|path"},
};

constexpr PassInfo kPasses[] = {
    {"drop-blocks", "depth", kLossy, "Removes blocks of the residual stream that matter least and heals the gaps",
     kDropBlocksOptions, make_drop_blocks},
    {"ensemble-scale", "depth", kLossy,
     "Scales what the head reads of each path of the residual stream, to repair what lossy passes did",
     kEnsembleScaleOptions, make_ensemble_scale},
};

}  // namespace

std::span<const PassInfo> depth_passes() { return kPasses; }

}  // namespace onnxfold
