#include "passes/registry.h"
#include "passes/tie/layer_alignment.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_roll_layers(const PassOptions&);
std::unique_ptr<Pass> make_fit_linear_depth(const PassOptions&);
std::unique_ptr<Pass> make_set_steps(const PassOptions&);
std::unique_ptr<Pass> make_tie_embeddings(const PassOptions&);
std::unique_ptr<Pass> make_tie_layers(const PassOptions&);
std::unique_ptr<Pass> make_tie_near_embeddings(const PassOptions&);
std::unique_ptr<Pass> make_unroll_layers(const PassOptions&);
std::unique_ptr<Pass> make_untie(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr OptionSpec kFitLinearDepthOptions[] = {
    {"rank", kInt, "0", "Rank of the correction that each layer keeps; 0: none", "0.."},
    {"min-excess", kFloat, "0.5", "Share of what unrelated layers leave unexplained that a line must explain", "0..1"},
    {"align", kChoice, "all",
     "First put hidden neurons, whole heads or both in the order of the layer before (exact); rotate: heads are turned "
     "inside too",
     kAlignChoices},
    {"protect-first", kInt, "0", "Blocks at the start of each stream that stay as they are", "0.."},
    {"protect-last", kInt, "0", "Blocks at its end that stay as they are", "0.."},
};

constexpr OptionSpec kTieLayersOptions[] = {
    {"loops", kInt, "2", "How often each unique layer is used; must divide the number of layers", "1.."},
    {"looping", kChoice, "cycle",
     "cycle: 0 1 2 0 1 2; sequence: 0 0 1 1 2 2; cycle-rev: 0 1 2 2 1 0 (which unique layer each layer uses)",
     "cycle|sequence|cycle-rev"},
    {"rank", kInt, "16", "Rank of the correction that each layer keeps beside each shared weight; 0: none (strict)",
     "0.."},
    {"ranks", kPatterns, "", "Other ranks by role (ffn.*=32;attention.k=0); later ones win"},
    {"ratio", kFloat, "0", "Bytes of the tied weights to keep, as a share, instead of ranks; 0: the ranks", "0..1"},
    {"target-size", kInt, "0", "Bytes of all weights of the model to aim at, instead of ranks; 0: ratio or ranks",
     "0.."},
    {"spread", kChoice, "error",
     "With ratio or target-size: more rank where it takes away more error (with data: measured on the model); uniform",
     "error|uniform"},
    {"start", kChoice, "auto",
     "The shared weight: weighted: least squares on the layers' inputs; average (auto without data); stepwise: layers "
     "at "
     "even steps; lower: the first layers; auto with data: what harms the model least",
     "auto|weighted|average|stepwise|lower"},
    {"factors", kChoice, "auto",
     "The corrections: svd of what is left (auto without data); whitened: by the inputs (auto with another start); "
     "closed: the best for two loops; alternate: shared weight and corrections in turn; auto with data: one of these "
     "two",
     "auto|svd|whitened|closed|alternate"},
    {"align", kChoice, "no",
     "First put hidden neurons, whole heads or both of the layers to tie in one order (exact); rotate: heads are "
     "turned inside too",
     kAlignChoices},
    {"norms", kChoice, "keep",
     "keep: each layer its own gains and biases; fold: first put them into the Linears behind (fold-norm-affine)",
     "keep|fold"},
    {"rounds", kInt, "5", "Alternations of shared weight and corrections", "0.."},
    {"at-once", kInt, "134217728",
     "Without data: bytes of tied weights up to which all are fitted at once and their errors reported; larger models "
     "are fitted as they are written",
     "0.."},
    {"pad", kBool, "false",
     "Fill corrections of a role with zeros to equal ranks, so that roll-layers finds single blocks equal"},
    {"sweeps", kInt, "1",
     "With data, start and factors auto: how often, at most, all groups are solved anew from what the tied model feeds "
     "them",
     "0.."},
    {"protect-first", kInt, "0", "Blocks at the start of each stream that stay as they are", "0.."},
    {"protect-last", kInt, "0", "Blocks at its end that stay as they are", "0.."},
};

constexpr OptionSpec kRollLayersOptions[] = {
    {"form", kChoice, "auto",
     "scan: Scan over what differs, Loop where nothing does; loop: Loop and Gather by the turn; auto: scan",
     "auto|scan|loop"},
    {"min-blocks", kInt, "2", "Shorter runs stay as they are", "2.."},
    {"blocks-in-body", kInt, "0", "Blocks to a turn; 0: one, or the period with which weights repeat", "0.."},
};
constexpr OptionSpec kSetStepsOptions[] = {
    {"steps", kInt, "-1", "How often loops shall run; must be given", "-1.."},
    {"turns", kChoice, "same",
     "same: only loops whose turns are all the same; nearest: turns that differ in constants take those of the turn at "
     "the same relative depth",
     "same|nearest"},
};
constexpr OptionSpec kTieEmbeddingsOptions[] = {
    {"scope", kChoice, "embeddings", "Heads and tables that Gather reads, or all matrices that products read",
     "embeddings|all"},
};
constexpr OptionSpec kTieNearEmbeddingsOptions[] = {
    {"scope", kChoice, "embeddings", "Heads and tables that Gather reads, or all matrices that products read",
     "embeddings|all"},
    {"tolerance", kFloat, "0.001", "Largest difference, as a share of the largest magnitude", "0.."},
};
constexpr OptionSpec kUnrollLayersOptions[] = {
    {"max-nodes", kInt, "100000", "Loops that would make more nodes stay", "1.."},
};

constexpr PassInfo kPasses[] = {
    {"fit-linear-depth", "tie", kLossy, "Makes weights a line over depth, base and slope, where they lie on one (TLEG)",
     kFitLinearDepthOptions, make_fit_linear_depth},
    {"roll-layers", "tie", kExact, "Makes one Loop or Scan of runs of equal blocks", kRollLayersOptions,
     make_roll_layers},
    {"set-steps", "tie", kLossy, "Changes how often the loop of a tied model runs", kSetStepsOptions, make_set_steps},
    {"tie-embeddings", "tie", kExact, "Lets heads that repeat an embedding table read the table", kTieEmbeddingsOptions,
     make_tie_embeddings},
    {"tie-layers", "tie", kLossy, "Makes layers share their weights (recursive transformers)", kTieLayersOptions,
     make_tie_layers},
    {"tie-near-embeddings", "tie", kLossy, "As tie-embeddings, where the numbers differ by little",
     kTieNearEmbeddingsOptions, make_tie_near_embeddings},
    {"unroll-layers", "tie", kExact, "Writes out loops with a known number of turns", kUnrollLayersOptions,
     make_unroll_layers},
    {"untie", "tie", kExact, "Gives products that read an embedding table a constant of their own", {}, make_untie},
};

}  // namespace

std::span<const PassInfo> tie_passes() { return kPasses; }

}  // namespace onnxfold
