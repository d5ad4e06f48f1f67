// L equal layers => K = L / B unique layers used B times: y = x W_l => y = x W' + (x A_l) B_l.
//
// Conditions: a residual stream of equal blocks (layer_stack.h). The Linears that a looping ties read one constant;
// each layer keeps a low-rank correction (rank 0: none), its norms and biases, and every other constant. With
// calibration data W' is the least squares shared matrix (sum G_l)^-1 sum G_l W_l of the layers' inputs, and
// corrections are SVDs whitened by them, in alternation; without, the paper's plain mean and SVD. Lossy. Relaxed
// Recursive Transformers, arXiv 2410.20672; shared_fit.h has what goes beyond it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "analysis/calibrate/sample_split.h"
#include "passes/folded_norms.h"
#include "passes/pass.h"
#include "passes/tie/group_fits.h"
#include "passes/tie/layer_alignment.h"
#include "passes/tie/tie_group.h"
#include "passes/tie/tied_refit.h"

namespace onnxfold {
namespace {

using Ranks = std::vector<std::int64_t>;

class TieLayers final : public Pass {
 public:
  explicit TieLayers(const PassOptions& options) : options_(options), loops_(options.integer("loops")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph() || loops_ < 2) return false;
    const std::unique_ptr<Model> student = context.model().clone();
    if (options_.text("norms") == "fold") {
      // Also norms that chains of operators spell, and where a reader gets a bias for it.
      OF_ASSIGN(const bool folded, fold_norms(*student, context, {{"chains", "true"}, {"max-extra-nodes", "16"}}));
      context.note("", folded ? "gains and biases of norms folded into the Linears behind them" : "no norm to fold");
    }
    OF_TRY(align(*student, context));
    OF_TRY(find_groups(student->graph(), context));
    if (groups_.empty()) return false;
    OF_TRY(tie(*student, context));
    if (meter_) {
      OF_ASSIGN(const Damage damage, meter_->measure(*student));
      context.note("", fmt::format("on {}: {} {:.4f} -> {:.4f}",
                                   split_ ? "calibration samples held out" : "the calibration data",
                                   meter_->kind_name(), meter_->original().value, damage.value));
    }
    context.model().adopt_graph(*student);
    return true;
  }

 private:
  Status tie(Model& student, PassContext& context) {
    const bool data = context.calibration != nullptr;
    how_ = tie_options(options_.text("start"), options_.text("factors"), loops_, data,
                       static_cast<int>(options_.integer("rounds")));
    OF_TRY(check(data));
    if (chosen_by_data(context) || (data && spread_by_error(student.graph()))) OF_TRY(set_judge(context));
    OF_TRY(learn(student, context));
    OF_TRY(make_curves(student.graph()));
    OF_ASSIGN(const Ranks ranks, choose_ranks(student, context));
    if (!data && untied_bytes(curves_) > options_.integer("at-once")) {
      return tie_when_written(student, ranks, context);
    }
    const bool together = chosen_by_data(context) || options_.flag("pad");
    return together ? tie_together(student, ranks, context) : tie_in_turn(student, ranks, context);
  }

  Status tie_together(Model& student, const Ranks& ranks, PassContext& context) {
    OF_ASSIGN(auto fits, fit_best(student, ranks, context));
    OF_TRY(refit(student, ranks, fits, context));
    if (options_.flag("pad")) {
      const std::size_t filled = pad_corrections(groups_, fits);
      if (filled > 0) context.note("", fmt::format("{} corrections filled with zeros to equal ranks", filled));
    }
    for (std::size_t i = 0; i < groups_.size(); ++i) report(i, ranks[i], fits[i], context);
    for (std::size_t i = 0; i < groups_.size(); ++i) OF_TRY(apply_fit(student.graph(), groups_[i], fits[i]));
    return {};
  }

  // A few groups at a time: in double all of them are larger than the model.
  Status tie_in_turn(Model& student, const Ranks& ranks, PassContext& context) const {
    constexpr std::size_t kAtOnce = 4;
    for (std::size_t begin = 0; begin < groups_.size(); begin += kAtOnce) {
      const std::size_t end = std::min(begin + kAtOnce, groups_.size());
      OF_ASSIGN(const auto fits, for_groups<SharedFit>(begin, end, [&](std::size_t i) {
                  return fit_group(groups_[i], statistics_, how_, ranks[i]);
                }));
      for (std::size_t i = begin; i < end; ++i) {
        report(i, ranks[i], fits[i - begin], context);
        OF_TRY(apply_fit(student.graph(), groups_[i], fits[i - begin]));
      }
    }
    return {};
  }

  // Without data, and larger than what may be held: only what a group will look like is settled now.
  Status tie_when_written(Model& student, const Ranks& ranks, PassContext& context) const {
    OF_ASSIGN(std::vector<TieOutline> outlines, for_groups_in_room<TieOutline>(groups_, [&](std::size_t i) {
                return outline_of(groups_[i].weights, how_, ranks[i]);
              }));
    std::map<std::string, std::int64_t> most;
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      std::int64_t& rank = most[groups_[i].role];
      for (const std::int64_t mine : outlines[i].ranks) rank = std::max(rank, mine);
    }
    DeferredTies ties(kRoomOfFits);
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      TieOutline& outline = outlines[i];
      if (options_.flag("pad")) std::fill(outline.ranks.begin(), outline.ranks.end(), most[groups_[i].role]);
      const std::string error = outline.strict_error == 0
                                    ? ""
                                    : fmt::format(": {:.1f} % error of its weights{}", 100 * outline.strict_error,
                                                  ranks[i] > 0 ? " without its corrections" : "");
      report(i, ranks[i], outline.ranks, error, context);
      OF_TRY(
          place_tied(student.graph(), groups_[i], ties.tensors_of(groups_[i].weights, how_, ranks[i], outline.ranks)));
    }
    return {};
  }

  // Errors by rank, the most work, only where ranks are spread by them.
  Status make_curves(const Graph& graph) {
    for (const TieGroup& group : groups_) curves_.push_back(sizes_of(group));
    if (!spread_by_error(graph)) return {};
    OF_ASSIGN(curves_, for_groups_in_room<CorrectionCurve>(
                           groups_, [this](std::size_t i) { return curve_of(groups_[i], statistics_, how_); }));
    return {};
  }

  Status align(Model& student, PassContext& context) const {
    const std::string how = options_.text("align");
    if (how == "no") return {};
    const std::vector<LayerStack> stacks =
        layer_stacks(student.graph(), static_cast<std::size_t>(options_.integer("protect-first")),
                     static_cast<std::size_t>(options_.integer("protect-last")));
    const Looping looping = looping_named(options_.text("looping"));
    OF_ASSIGN(const AlignedUnits count, align_looped(student, stacks, looping, static_cast<std::size_t>(loops_), how));
    context.note("", fmt::format("hidden neurons of {} feed-forward layers and heads of {} attentions put in the order "
                                 "of others",
                                 count.neurons, count.heads));
    return {};
  }

  Status find_groups(Graph& graph, PassContext& context) {
    std::vector<StructureNote> notes;
    const auto first = static_cast<std::size_t>(options_.integer("protect-first"));
    const auto last = static_cast<std::size_t>(options_.integer("protect-last"));
    const std::vector<LayerStack> stacks = layer_stacks(graph, first, last, &notes);
    for (const StructureNote& note : notes) context.skipped(note.node, note.reason);
    if (stacks.empty()) context.skipped(graph.name, "no residual stream of equal blocks was found");
    const Looping looping = looping_named(options_.text("looping"));
    for (const LayerStack& stack : stacks) {
      auto groups = tie_groups(stack, looping, static_cast<std::size_t>(loops_));
      if (!groups) {
        return fail(groups.error().code,
                    fmt::format("blocks {} to {}: {} (protect-first or protect-last can leave blocks out)",
                                stack.blocks.front(), stack.blocks.back(), groups.error().message));
      }
      if (groups->empty())
        context.skipped(fmt::format("block {}", stack.blocks.front()), "its layers are tied already");
      for (TieGroup& group : *groups) {
        const bool here = std::all_of(group.linears.begin(), group.linears.end(),
                                      [&](const Linear& linear) { return linear.product->graph() == &graph; });
        if (here) groups_.push_back(std::move(group));
      }
    }
    return {};
  }

  Status check(bool data) const {
    if (!data && (how_.start == TieStart::kWeighted || how_.factors == TieFactors::kWhitened)) {
      return fail(Code::kInvalidArgument, "start=weighted and factors=whitened need data (--calibration F.npz)");
    }
    if (how_.factors == TieFactors::kClosed && loops_ != 2) {
      return fail(Code::kInvalidArgument,
                  fmt::format("factors=closed is for two loops; factors=alternate is for {}", loops_));
    }
    return {};
  }

  // What is chosen by measuring is judged on samples that nothing is fitted to, where there are enough.
  Status set_judge(PassContext& context) {
    OF_ASSIGN(split_, split_samples(context.model(), *context.calibration));
    if (split_) {
      if (auto meter = DamageMeter::create(context.model(), split_->check)) meter_ = std::move(*meter);
      if (meter_) return {};
      split_.reset();  // a model that runs on batches of one size only
    }
    OF_ASSIGN(meter_, DamageMeter::create(context.model(), *context.calibration));
    return {};
  }

  Status learn(const Model& aligned, PassContext& context) {
    if (context.calibration == nullptr) {
      context.note("", "weights only: with calibration data the error is several times less (--calibration F.npz)");
      return {};
    }
    if (how_.start != TieStart::kWeighted && how_.factors == TieFactors::kSvd) return {};
    std::set<std::string> inputs;
    for (const TieGroup& group : groups_) {
      for (const Linear& linear : group.linears) inputs.insert(linear.input->name());
    }
    const Dataset& data = split_ ? split_->fit : *context.calibration;
    OF_ASSIGN(statistics_, collect_statistics(aligned, data, {inputs.begin(), inputs.end()}));
    return {};
  }

  bool spread_by_error(const Graph& graph) const { return budget(graph).has_value() && !uniform(); }

  // Ranks that are filled up to equal ones cost what the highest does.
  bool uniform() const { return options_.text("spread") == "uniform" || options_.flag("pad"); }

  // Bytes that the groups may have; nullopt: ranks are given.
  std::optional<std::int64_t> budget(const Graph& graph) const {
    const std::int64_t untied = untied_bytes(curves_);
    std::int64_t all = 0;
    for (const Value* value : graph.initializers()) all += value->initializer()->nbytes();
    const std::int64_t target = options_.integer("target-size");
    if (target > 0) return std::max<std::int64_t>(0, target - (all - untied));
    const double ratio = options_.number("ratio");
    if (ratio <= 0) return {};
    return static_cast<std::int64_t>(std::llround(ratio * static_cast<double>(untied)));
  }

  Result<Ranks> choose_ranks(const Model& aligned, PassContext& context) const {
    const auto bytes = budget(aligned.graph());
    if (!bytes) return given_ranks(context);
    std::int64_t strict = 0;
    for (const CorrectionCurve& curve : curves_) strict += curve.bytes(0);
    if (strict > *bytes) {
      context.note("", fmt::format("{} loops without corrections are {} bytes already, more than the {} asked for",
                                   loops_, strict, *bytes));
    }
    const Ranks uniform = uniform_corrections(curves_, *bytes);
    if (!spread_by_error(aligned.graph())) return uniform;
    if (context.calibration == nullptr) return corrections_by_error(curves_, *bytes, 0.5);
    return measured_ranks(aligned, uniform, *bytes, context);
  }

  Result<Ranks> given_ranks(PassContext& context) const {
    std::vector<std::string> roles;
    for (const TieGroup& group : groups_) roles.push_back(group.role);
    OF_ASSIGN(const Ranks ranks,
              corrections_by_role(curves_, roles, options_.integer("rank"), options_.patterns("ranks")));
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      if (ranks[i] < curves_[i].break_even() || ranks[i] == 0) continue;
      context.note(groups_[i].linears.front().product->label(),
                   fmt::format("rank {} of {} saves nothing: from {} on a tied layer is as large as its own weight",
                               ranks[i], groups_[i].role, curves_[i].break_even()));
    }
    return ranks;
  }

  // Several ways to spread the bytes, the one that harms the model least on the data.
  Result<Ranks> measured_ranks(const Model& aligned, const Ranks& uniform, std::int64_t bytes,
                               PassContext& context) const {
    Ranks best = uniform;
    double least = HUGE_VAL;
    std::string chosen = "uniform", all;
    for (const double floor : {1.0, 0.75, 0.5}) {
      const Ranks ranks = floor == 1 ? uniform : corrections_by_error(curves_, bytes, floor);
      OF_ASSIGN(const auto fits, fit_groups(groups_, statistics_, {how_.start, how_.factors, 0},
                                            ranks));  // alternations change all of them alike
      OF_ASSIGN(const double damage, damage_of(aligned, groups_, fits, *meter_));
      const std::string name = floor == 1 ? "uniform" : fmt::format("by error from {:g}", floor);
      all += fmt::format("{}{} {:.4f}", all.empty() ? "" : ", ", name, damage);
      if (damage >= least) continue;
      least = damage;
      best = ranks;
      chosen = name;
    }
    context.note("", fmt::format("ranks {}: {} of {:.4f} becomes {}", chosen, meter_->kind_name(),
                                 meter_->original().value, all));
    return best;
  }

  // Least squares loses where errors add up over depth (few unique layers, no rank): with data, and no way named, the
  // first layers and the plain mean are tried too, and the one stays that harms the model least.
  Result<std::vector<SharedFit>> fit_best(const Model& aligned, const Ranks& ranks, PassContext& context) {
    OF_ASSIGN(auto best, fit_groups(groups_, statistics_, how_, ranks));
    if (!chosen_by_data(context)) return best;
    OF_ASSIGN(double least, damage_of(aligned, groups_, best, *meter_));
    std::string all = fmt::format("least squares {:.4f}", least), chosen = "least squares";
    const TieOptions first = how_;
    for (const TieStart start : {TieStart::kLower, TieStart::kAverage}) {
      const TieOptions way = {start, TieFactors::kWhitened, first.rounds};
      OF_ASSIGN(auto fits, fit_groups(groups_, statistics_, way, ranks));
      OF_ASSIGN(const double damage, damage_of(aligned, groups_, fits, *meter_));
      const std::string name = start == TieStart::kLower ? "first layers" : "average";
      all += fmt::format(", {} {:.4f}", name, damage);
      if (!(damage < least)) continue;
      least = damage;
      best = std::move(fits);
      chosen = name;
      how_ = way;
    }
    context.note("", fmt::format("start {}: {} of {:.4f} becomes {}", chosen, meter_->kind_name(),
                                 meter_->original().value, all));
    return best;
  }

  bool chosen_by_data(const PassContext& context) const {
    return context.calibration != nullptr && options_.text("start") == "auto" && options_.text("factors") == "auto";
  }

  // Only what is chosen by data: other fits are what their names say.
  Status refit(const Model& aligned, const Ranks& ranks, std::vector<SharedFit>& fits, PassContext& context) const {
    const auto sweeps = static_cast<int>(options_.integer("sweeps"));
    if (!chosen_by_data(context) || sweeps == 0) return {};
    OF_ASSIGN(const TiedRefit done,
              refit_tied(aligned, groups_, how_, ranks, *context.calibration, *meter_, sweeps, fits));
    context.note("",
                 fmt::format("{} groups solved anew on what the tied model feeds them, {} sweeps: {} {:.4f} -> {:.4f}",
                             done.solved, done.sweeps, meter_->kind_name(), done.before, done.after));
    return {};
  }

  void report(std::size_t i, std::int64_t rank, const SharedFit& fit, PassContext& context) const {
    Ranks ranks;
    for (const LowRank& pair : fit.corrections) ranks.push_back(pair.a.cols);
    const std::string of = statistics_.empty() ? "weights" : "outputs";
    report(i, rank, ranks, fmt::format(": {:.1f} % error of its {}", 100 * fit.error, of), context);
  }

  // `stored`: by member.
  void report(std::size_t i, std::int64_t rank, const Ranks& stored, const std::string& error,
              PassContext& context) const {
    const TieGroup& group = groups_[i];
    const CorrectionCurve& curve = curves_[i];
    std::int64_t bytes = curve.bytes(0);
    for (const std::int64_t mine : stored) bytes += mine * (curve.in + curve.out) * curve.bytes_each;
    const std::string corrected = rank > 0 ? fmt::format(", rank {} of {}", rank, std::min(curve.in, curve.out)) : "";
    context.applied(
        group.linears.front().product->label(),
        fmt::format("{} of blocks {} is one{}{}", group.role, fmt::join(group.blocks, ", "), corrected, error),
        curve.untied_bytes(), bytes);
  }

  const PassOptions options_;
  const std::int64_t loops_;
  TieOptions how_;
  std::vector<TieGroup> groups_;
  InputStatistics statistics_;
  std::vector<CorrectionCurve> curves_;
  std::optional<SampleSplit> split_;  // of the calibration data, where something is measured on it
  std::optional<DamageMeter> meter_;  // where something is measured on the data
};

}  // namespace

std::unique_ptr<Pass> make_tie_layers(const PassOptions& options) { return std::make_unique<TieLayers>(options); }

}  // namespace onnxfold
