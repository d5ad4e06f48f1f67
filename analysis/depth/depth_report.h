// How a model uses its depth: what each block adds, what happens without it, and what could be done about it.
//
// Metrics of "Do Language Models Use Their Depth Efficiently?" (arXiv 2505.13898) and of "Jump to Conclusions" (arXiv
// 2303.09435), forward passes only: one in full, and for each block what lies behind it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/depth/block_scores.h"

namespace onnxfold {

// |what a branch adds| / |the stream it adds to| over rows, and the cosine between the two: below 0 it erases, near 0
// it writes something new, above 0 it amplifies.
struct Contribution {
  std::string kind;
  double mean = 0, max = 0, cosine = 0;
};

struct BlockDepth {
  std::string label;  // "block 3"
  std::string kind;   // "pre-norm"...
  std::int64_t parameters = 0;
  Contribution block;
  std::vector<Contribution> sublayers;  // those whose stream and addend are separate values
  double cosine = 1;                    // of input and output; 1 - it is the block influence
  std::optional<Damage> without;        // of the model without the block; none when it cannot be removed
  double macro = 0;                     // 1 - cosine of the final hidden states with and without it
  std::vector<double> skip_effect;      // on every block's own change of the stream: |d - d'| / |d|, mean over rows
  std::optional<double> parallel;       // relative error when it and the next block read the same input
  // Logit lens: outputs computed from the stream behind this block, against the model's own.
  std::optional<double> lens_kl, lens_top1;
};

struct DepthReport {
  std::string damage_kind, task_kind;
  Damage original;
  std::vector<BlockDepth> blocks;
  // r2[i][j]: share of the squares of the stream behind block j (0: before the first) that a linear map of the stream
  // behind block i < j explains, on held-out rows. Empty when the stream is wider than the data can tell.
  std::vector<std::vector<double>> r2;
  struct Window {
    std::size_t first = 0, count = 0;
    double arc = 0;  // angle of its ends, in units of pi
  };
  std::vector<Window> windows;             // the best for 1, 2, ... blocks, first two and last protected
  std::optional<std::size_t> exit_behind;  // the lens agrees in 95 % of the rows from here on
  double forward_passes = 0;               // that this took, in full passes
  std::vector<StructureNote> notes;
};

// Errors: unsupported, when there are no blocks; the executor's.
Result<DepthReport> measure_depth(const Model& model, const Dataset& data);

}  // namespace onnxfold
