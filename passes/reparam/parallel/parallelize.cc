// x1 = x + A1(x) + F1(..); x2 = x1 + A2(x1) + F2(..) => y = x + A1(x) + A2(x); x2 = y + F1(y) + F2(y)
//
// Pairs of consecutive residual blocks with the same kinds of layers are made parallel, attention beside attention and
// then feed-forward beside feed-forward (staged), or all branches on the stream before the pair (full). Each drops the
// term J_F2(x) F1(x) and the like (M14 of the method notes; Make Deep Networks Shallow Again, arXiv 2309.08414;
// Parallel ViT, arXiv 2203.09795), so it is lossy. merge-parallel-attention and merge-parallel-ffn then make one layer
// of each pair exactly. Pairs are given, or chosen one after the other by the error of the model's outputs on the
// calibration data (generated inputs when there is none), measured with the pairs chosen before. Post-norm and
// convolutional blocks, streams read between the blocks: skipped.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "analysis/calibrate/dataset.h"
#include "analysis/calibrate/statistics.h"
#include "passes/pass.h"
#include "passes/reparam/parallel/block_pairs.h"

namespace onnxfold {
namespace {

// By the index of a pair's first block.
using Pairs = std::set<std::size_t>;

// A copy of the model with these pairs parallel.
Result<std::unique_ptr<Model>> with_pairs(const Model& model, const Pairs& pairs, ParallelMode mode) {
  std::unique_ptr<Model> copy = model.clone();
  const BlockView view = find_blocks(copy->graph());
  for (const std::size_t first : pairs) {
    OF_TRY(make_parallel(copy->graph(), view.blocks[first], view.blocks[first + 1], mode));
  }
  return copy;
}

// The first batches, until there are `samples`.
Dataset shortened(const Dataset& data, std::int64_t samples) {
  Dataset part;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < data.batches.size() && (count < samples || samples == 0); ++i) {
    part.batches.push_back(data.batches[i]);
    part.batch_sizes.push_back(i < data.batch_sizes.size() ? data.batch_sizes[i] : 1);
    count += part.batch_sizes.back();
  }
  part.origin = data.origin + (part.batches.size() < data.batches.size() ? fmt::format(", the first {}", count) : "");
  return part;
}

// Relative L2 error of a model's outputs to those of the model as it was.
class OutputError {
 public:
  OutputError(const Model& model, Dataset data) : data_(std::move(data)) {
    for (const Value* output : model.graph().outputs()) {
      if (is_float(output->dtype())) names_.push_back(output->name());
    }
  }

  Status set_reference(const Model& model) {
    reference_.clear();
    return each(model, [&](const Matrix& rows) { reference_.push_back(rows); });
  }

  Result<double> of(const Model& model) {
    double difference = 0, size = 0;
    std::size_t at = 0;
    bool same = true;
    OF_TRY(each(model, [&](const Matrix& rows) {
      const Matrix& wanted = reference_[at++];
      same = same && wanted.data.size() == rows.data.size();
      for (std::size_t i = 0; same && i < rows.data.size(); ++i) {
        difference += (rows.data[i] - wanted.data[i]) * (rows.data[i] - wanted.data[i]);
        size += wanted.data[i] * wanted.data[i];
      }
    }));
    if (!same) return fail(Code::kInternal, "parallel blocks gave outputs of another shape");
    return size > 0 ? std::sqrt(difference / size) : 0.0;
  }

  const std::string& origin() const { return data_.origin; }
  bool comparable() const { return !names_.empty() && !data_.batches.empty(); }

 private:
  template <typename Visit>
  Status each(const Model& model, Visit visit) {
    return for_each_batch(model, data_, names_, [&](std::size_t, const Taps& taps, const RowMask& mask) -> Status {
      for (const std::string& name : names_) {
        OF_ASSIGN(const Matrix rows, rows_of(taps.at(name), mask));
        visit(rows);
      }
      return {};
    });
  }

  Dataset data_;
  std::vector<std::string> names_;
  std::vector<Matrix> reference_;
};

class Parallelize final : public Pass {
 public:
  explicit Parallelize(const PassOptions& options)
      : wanted_(static_cast<std::size_t>(options.integer("pairs"))),
        max_error_(options.number("max-error")),
        given_(options.patterns("which")),
        mode_(options.text("mode") == "full" ? ParallelMode::kFull : ParallelMode::kStaged),
        samples_(options.integer("samples")),
        rescore_(options.flag("rescore")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph()) return false;
    const BlockView view = find_blocks(graph);
    blocks_ = view.blocks.size();
    possible_.clear();
    for (std::size_t i = 0; i + 1 < blocks_; ++i) {
      const std::string why = pair_conflict(view.blocks[i], view.blocks[i + 1]);
      if (why.empty()) possible_.insert(i);
      if (!why.empty()) context.skipped(label(view.blocks[i]), fmt::format("blocks {} and {}: {}", i, i + 1, why));
    }
    OF_TRY(check_given());
    if (possible_.empty()) return false;
    Dataset made;
    if (context.calibration == nullptr) {
      OF_ASSIGN(made, generate_dataset(context.model(), context.seed));
    }
    OutputError error(context.model(),
                      context.calibration != nullptr ? shortened(*context.calibration, samples_) : std::move(made));
    if (!error.comparable()) {
      context.note("", "the model has no float outputs to measure pairs by");
      return false;
    }
    OF_TRY(error.set_reference(context.model()));
    OF_TRY(given_.empty() ? choose(context, error, view) : take_given(context, error, view));
    // Blocks of one stream share no nodes but the stream: earlier rewrites leave later ones valid.
    for (const std::size_t first : chosen_) {
      OF_TRY(make_parallel(graph, view.blocks[first], view.blocks[first + 1], mode_));
    }
    return !chosen_.empty();
  }

 private:
  static std::string label(const Block& block) { return block.sublayers.back().add->label(); }

  Status check_given() {
    for (const std::string& text : given_) {
      std::size_t first = 0;
      const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), first);
      if (problem != std::errc() || end != text.data() + text.size()) {
        return fail(Code::kInvalidArgument, fmt::format("which: '{}' is no index of a block", text));
      }
      if (possible_.count(first) == 0) {
        return fail(Code::kInvalidArgument,
                    fmt::format("which: blocks {} and {} cannot be made parallel ({} blocks were found)", first,
                                first + 1, blocks_));
      }
      order_.push_back(first);
    }
    for (const std::size_t first : order_) {
      if (std::count(order_.begin(), order_.end(), first) > 1 ||
          std::find(order_.begin(), order_.end(), first + 1) != order_.end()) {
        return fail(Code::kInvalidArgument, fmt::format("which: block {} is in two pairs", first + 1));
      }
    }
    return {};
  }

  Result<double> measure(const PassContext& context, OutputError& error, Pairs pairs, std::size_t more) const {
    pairs.insert(more);
    OF_ASSIGN(const std::unique_ptr<Model> model, with_pairs(const_cast<PassContext&>(context).model(), pairs, mode_));
    return error.of(*model);
  }

  Status take_given(PassContext& context, OutputError& error, const BlockView& view) {
    for (const std::size_t first : order_) {
      OF_ASSIGN(const double together, measure(context, error, chosen_, first));
      take(context, error, view, first, together);
    }
    return {};
  }

  void take(PassContext& context, const OutputError& error, const BlockView& view, std::size_t first, double together) {
    chosen_.insert(first);
    context.applied(
        label(view.blocks[first]),
        fmt::format("blocks {} and {} side by side: error of the outputs {:.3g} with {} {} ({})", first, first + 1,
                    together, chosen_.size(), chosen_.size() == 1 ? "pair" : "pairs", error.origin()));
  }

  // The pair with the least error, again and again.
  Status choose(PassContext& context, OutputError& error, const BlockView& view) {
    std::map<std::size_t, double> scores;
    while (wanted_ == 0 || chosen_.size() < wanted_) {
      const std::vector<std::size_t> candidates = open_pairs();
      if (candidates.empty()) break;
      for (const std::size_t first : candidates) {
        if (!rescore_ && scores.count(first) != 0) continue;
        OF_ASSIGN(scores[first], measure(context, error, chosen_, first));
      }
      const std::size_t best = *std::min_element(candidates.begin(), candidates.end(),
                                                 [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
      double together = scores[best];
      if (!rescore_ && !chosen_.empty()) {
        OF_ASSIGN(together, measure(context, error, chosen_, best));
      }
      if (wanted_ == 0 && !(together <= max_error_)) {
        context.note(label(view.blocks[best]), fmt::format("blocks {} and {} not taken: error {:.3g} is above {:.3g}",
                                                           best, best + 1, together, max_error_));
        break;
      }
      take(context, error, view, best, together);
    }
    if (chosen_.size() < wanted_) {
      context.note("", fmt::format("{} of {} pairs: no more blocks fit together", chosen_.size(), wanted_));
    }
    return {};
  }

  bool free(std::size_t first, const Pairs& taken) const {
    return possible_.count(first) != 0 && taken.count(first) == 0 && taken.count(first + 1) == 0 &&
           (first == 0 || taken.count(first - 1) == 0);
  }

  // How many pairs can still be taken.
  std::size_t room(const Pairs& taken) const {
    Pairs all = taken;
    std::size_t count = 0;
    for (std::size_t i = 0; i < blocks_; ++i) {
      if (!free(i, all)) continue;
      all.insert(i);
      ++count;
    }
    return count;
  }

  // Pairs that leave room for as many as are wanted.
  std::vector<std::size_t> open_pairs() const {
    const std::size_t most = chosen_.size() + room(chosen_);
    const std::size_t goal = std::min(wanted_, most);
    std::vector<std::size_t> open;
    for (const std::size_t first : possible_) {
      if (!free(first, chosen_)) continue;
      Pairs next = chosen_;
      next.insert(first);
      if (next.size() + room(next) >= goal) open.push_back(first);
    }
    return open;
  }

  std::size_t wanted_;
  double max_error_;
  std::vector<std::string> given_;
  ParallelMode mode_;
  std::int64_t samples_;
  bool rescore_;
  std::size_t blocks_ = 0;
  Pairs possible_, chosen_;
  std::vector<std::size_t> order_;
};

}  // namespace

std::unique_ptr<Pass> make_parallelize(const PassOptions& options) { return std::make_unique<Parallelize>(options); }

}  // namespace onnxfold
