#include "passes/tie/tied_refit.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "analysis/algebra/ridge.h"
#include "analysis/calibrate/part.h"
#include "analysis/heal/refit_targets.h"

namespace onnxfold {
namespace {

// Toward what the tied model has: from trusting the new inputs to hardly moving.
constexpr double kDampings[] = {1e-3, 1e-2, 0.1, 0.5, 2, 8};
// Where the model does worse for it, a site is solved once more from here.
constexpr double kCautious = 1;
constexpr double kWorthIt = 1e-3;  // least share of the held-out error that must go
constexpr double kWorthASweep = 0.01;
constexpr double kSure = 2;        // standard errors that a gain of the model must have
constexpr double kNoError = 1e-6;  // groups that lose less are left alone

// One layer of a group: what it should compute from what it is fed.
struct Member {
  bool bias = false;
  std::vector<double> old_bias;  // the original's
  Matrix prior;                  // what the layer has now: weight, bias as last row
  SplitRegression rows;          // of what the prior leaves over
};

// Rows of [weight; bias] that a fit gives a layer.
Matrix stacked_of(const SharedFit& fit, const Member& member, std::size_t layer) {
  Matrix weight = fit.shared;
  const LowRank& pair = fit.corrections[layer];
  if (pair.a.cols > 0) weight = sum(weight, product(pair.a, pair.b));
  if (!member.bias) return weight;
  return with_bias_row(weight, layer < fit.biases.size() ? fit.biases[layer] : member.old_bias);
}

double held_out_error(const std::vector<Member>& members, const SharedFit& fit) {
  double error = 0;
  for (std::size_t l = 0; l < members.size(); ++l) {
    error += members[l].rows.check.error(sum(stacked_of(fit, members[l], l), members[l].prior, -1));
  }
  return error;
}

// ||[X 1] [W; b] - Y||^2 + ridge toward the prior, written as tr (W - W*)' G (W - W*) with b solved for every W.
struct Target {
  Matrix weight, gram;       // W*, G
  std::vector<double> bias;  // b*: b of W is b* - pull (W - W*)
  std::vector<double> pull;
};

Result<Target> target_of(const Member& member, double damping) {
  const Regression& rows = member.rows.fit;
  OF_ASSIGN(const Matrix change, ridge_solve(rows.gram, rows.cross, damping));
  const Matrix best = sum(member.prior, change);
  const std::int64_t size = rows.gram.rows, in = size - (member.bias ? 1 : 0);
  double trace = 0;
  for (std::int64_t i = 0; i < size; ++i) trace += rows.gram.at(i, i);
  const double ridge = damping * trace / static_cast<double>(size);
  Target target;
  target.weight = Matrix(in, best.cols, {best.data.begin(), best.data.begin() + in * best.cols});
  target.gram = Matrix(in, in);
  const double ones = member.bias ? rows.gram.at(in, in) + ridge : 1;
  for (std::int64_t i = 0; i < in; ++i) {
    for (std::int64_t j = 0; j < in; ++j) {
      const double mean_part = member.bias ? rows.gram.at(i, in) * rows.gram.at(j, in) / ones : 0;
      target.gram.at(i, j) = rows.gram.at(i, j) - mean_part + (i == j ? ridge : 0);
    }
    if (member.bias) target.pull.push_back(rows.gram.at(i, in) / ones);
  }
  if (member.bias) target.bias.assign(best.data.end() - best.cols, best.data.end());
  return target;
}

std::vector<double> bias_for(const Target& target, const Matrix& weight) {
  std::vector<double> bias = target.bias;
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      bias[static_cast<std::size_t>(c)] -=
          target.pull[static_cast<std::size_t>(i)] * (weight.at(i, c) - target.weight.at(i, c));
    }
  }
  return bias;
}

// `now`: the shared weight that the alternation may start from as well.
Result<SharedFit> solve(const std::vector<Member>& members, const TieOptions& options, const Matrix& now,
                        std::int64_t rank, double damping) {
  std::vector<Target> targets;
  std::vector<Matrix> weights;
  std::vector<const Matrix*> grams;
  for (const Member& member : members) {
    OF_ASSIGN(Target target, target_of(member, damping));
    weights.push_back(target.weight);
    targets.push_back(std::move(target));
  }
  for (const Target& target : targets) grams.push_back(&target.gram);
  OF_ASSIGN(const SharedFitter fitter, SharedFitter::create(std::move(weights), grams, 0));
  SharedFit fit;
  if (options.factors == TieFactors::kClosed && rank > 0) {
    OF_ASSIGN(fit, fitter.closed_form(rank, options.rounds));
  } else {
    OF_ASSIGN(const Matrix mean, fitter.weighted_mean());
    OF_ASSIGN(fit, fitter.alternate(mean, rank, options.rounds));
  }
  if (rank > 0) {
    OF_ASSIGN(SharedFit other, fitter.alternate(now, rank, options.rounds));
    if (other.error < fit.error) fit = std::move(other);
  }
  for (std::size_t l = 0; l < members.size(); ++l) {
    fit.biases.emplace_back();
    if (!members[l].bias) continue;
    Matrix weight = fit.shared;
    if (fit.corrections[l].a.cols > 0) weight = sum(weight, product(fit.corrections[l].a, fit.corrections[l].b));
    fit.biases.back() = bias_for(targets[l], weight);
  }
  return fit;
}

// Groups [begin, end) whose layers read the same values.
struct Site {
  std::size_t begin = 0, end = 0;
  std::vector<std::vector<RefitJob>> jobs;  // by group, then by layer; empty: the group stays
  std::set<std::string> fed, wanted;        // values of the tied model, of the original
};

// The tied model as it is.
struct State {
  std::vector<SharedFit> fits;
  double damage = 0;
  std::vector<double> by_batch;  // of what is judged on
};

// Less damage, by more than what the choice of samples does to such a difference (its standard error, in pairs).
bool surely_better(const State& after, const State& before) {
  if (!(after.damage < before.damage)) return false;
  const std::size_t count = before.by_batch.size();
  if (count < 4 || after.by_batch.size() != count) return true;  // too few to know how far they part
  double mean = 0, squares = 0;
  for (std::size_t i = 0; i < count; ++i) mean += (before.by_batch[i] - after.by_batch[i]) / static_cast<double>(count);
  for (std::size_t i = 0; i < count; ++i) squares += std::pow(before.by_batch[i] - after.by_batch[i] - mean, 2);
  return mean > kSure * std::sqrt(squares / static_cast<double>((count - 1) * count));
}

class Sweeper {
 public:
  Sweeper(const Model& aligned, const std::vector<TieGroup>& groups, const TieOptions& options,
          const std::vector<std::int64_t>& ranks, const Dataset& data, const DamageMeter& meter)
      : aligned_(aligned), groups_(groups), options_(options), ranks_(ranks), data_(data), meter_(meter) {}

  Status prepare(const std::vector<SharedFit>& fits) {
    const BlockView view = find_blocks(aligned_.graph());
    OF_ASSIGN(targets_, RefitTargets::create(view));
    std::set<std::string> stream;
    for (const Block& block : view.blocks) {
      if (block.output != nullptr) stream.insert(block.output->name());
    }
    OF_ASSIGN(stream_, record(aligned_, data_, {stream.begin(), stream.end()}));
    for (const Feeds& feeds : data_.batches) masks_.push_back(row_mask(aligned_, feeds));
    return find_sites(fits);
  }

  Result<State> judged(std::vector<SharedFit> fits) const {
    OF_ASSIGN(const auto model, tied(fits));
    OF_ASSIGN(const Recording outputs, record(*model, meter_.data(), meter_.output_names()));
    OF_ASSIGN(const Damage damage, meter_.measure(outputs));
    OF_ASSIGN(std::vector<double> by_batch, meter_.by_batch(outputs));
    return State{std::move(fits), damage.value, std::move(by_batch)};
  }

  // Returns how many groups have new numbers.
  Result<std::size_t> sweep(State& state) const {
    std::size_t solved = 0;
    for (const Site& site : sites_) {
      OF_ASSIGN(const auto members, members_of(site, state.fits));
      for (const double least_damping : {0.0, kCautious}) {
        std::vector<SharedFit> tried = state.fits;
        const std::size_t changed = refit_site(site, members, least_damping, tried);
        if (changed == 0) break;
        OF_ASSIGN(State after, judged(std::move(tried)));
        if (!surely_better(after, state)) continue;
        state = std::move(after);
        solved += changed;
        break;
      }
    }
    return solved;
  }

 private:
  static bool same_inputs(const TieGroup& a, const TieGroup& b) {
    return std::equal(a.linears.begin(), a.linears.end(), b.linears.begin(), b.linears.end(),
                      [](const Linear& x, const Linear& y) { return x.input == y.input; });
  }

  Result<std::unique_ptr<Model>> tied(const std::vector<SharedFit>& fits) const {
    std::unique_ptr<Model> model = aligned_.clone();
    for (std::size_t i = 0; i < groups_.size(); ++i) OF_TRY(apply_fit(model->graph(), groups_[i], fits[i]));
    return model;
  }

  Status find_sites(const std::vector<SharedFit>& fits) {
    OF_ASSIGN(student_, tied(fits));
    for (std::size_t begin = 0, end = 0; begin < groups_.size(); begin = end) {
      Site site{begin, begin + 1, {}, {}, {}};
      while (site.end < groups_.size() && same_inputs(groups_[begin], groups_[site.end])) ++site.end;
      end = site.end;
      for (std::size_t i = begin; i < end; ++i) add_jobs(i, fits[i], site);
      if (!site.wanted.empty()) sites_.push_back(std::move(site));
    }
    return {};
  }

  void add_jobs(std::size_t group, const SharedFit& fit, Site& site) const {
    std::vector<RefitJob> jobs;
    for (const Linear& linear : groups_[group].linears) {
      const auto job = targets_.job_of(student_->graph(), linear);
      if (job && fit.error >= kNoError) jobs.push_back(*job);
    }
    if (jobs.size() != groups_[group].linears.size()) jobs.clear();
    for (const RefitJob& job : jobs) {
      for (const std::string& name : student_values(job)) site.fed.insert(name);
      site.wanted.insert(job.target.teacher);
    }
    site.jobs.push_back(std::move(jobs));
  }

  std::size_t refit_site(const Site& site, const std::vector<std::vector<Member>>& members, double least_damping,
                         std::vector<SharedFit>& fits) const {
    std::size_t solved = 0;
    for (std::size_t i = site.begin; i < site.end; ++i) {
      const std::vector<Member>& layers = members[i - site.begin];
      if (!layers.empty() && refit_group(layers, ranks_[i], least_damping, fits[i])) ++solved;
    }
    return solved;
  }

  Result<Recording> teacher_values(const std::set<std::string>& wanted) const {
    std::vector<std::string> names;
    const std::vector<std::string> known = stream_.names();
    Recording all;
    for (const std::string& name : wanted) {
      if (std::find(known.begin(), known.end(), name) == known.end()) names.push_back(name);
    }
    if (!names.empty()) {
      OF_ASSIGN(all, replay(aligned_, data_, stream_, names));
    }
    all.batches.resize(stream_.batches.size());
    for (std::size_t b = 0; b < stream_.batches.size(); ++b) {
      for (const auto& entry : stream_.batches[b]) {
        if (wanted.count(entry.first) != 0) all.batches[b].insert(entry);
      }
    }
    return all;
  }

  // What the tied model feeds the site: nothing behind that runs.
  Result<Recording> student_values_at(const Site& site, const std::vector<SharedFit>& fits) const {
    OF_ASSIGN(const auto model, tied(fits));
    const std::vector<std::string> names(site.fed.begin(), site.fed.end());
    OF_ASSIGN(const auto part, model_part(*model, {}, names));
    return record(*part, data_, names);
  }

  // By group of the site; none where rows do not correspond or are too few.
  Result<std::vector<std::vector<Member>>> members_of(const Site& site, const std::vector<SharedFit>& fits) const {
    OF_ASSIGN(const Recording teacher, teacher_values(site.wanted));
    OF_ASSIGN(const Recording student, student_values_at(site, fits));
    std::vector<std::vector<Member>> all;
    std::map<std::pair<std::string, bool>, RefitInputs> inputs;
    for (std::size_t i = site.begin; i < site.end; ++i) {
      const std::vector<RefitJob>& jobs = site.jobs[i - site.begin];
      std::vector<Member>& members = all.emplace_back();
      for (std::size_t l = 0; l < jobs.size(); ++l) {
        const bool bias = jobs[l].linear.bias != nullptr;
        OF_ASSIGN(std::vector<double> old_bias, bias_vector(groups_[i].linears[l]));
        Member member{bias, std::move(old_bias), {}, {}};
        member.prior = stacked_of(fits[i], member, l);
        RefitInputs& fed = inputs[{jobs[l].linear.input->name(), bias}];
        const bool masked = rows_maskable(jobs[l], student.batches.at(0), teacher.batches.at(0));
        if (fed.value.empty() || fed.masked != masked) {
          OF_ASSIGN(fed, refit_inputs(jobs[l], student, data_, masks_, masked));
        }
        OF_ASSIGN(auto rows, left_over(jobs[l], fed, member.prior, student, teacher, masks_));
        if (!rows || rows->moments.check.rows == 0 || rows->moments.fit.rows < jobs[l].linear.in) break;
        member.rows = std::move(rows->moments);
        members.push_back(std::move(member));
      }
      if (members.size() != jobs.size()) members.clear();
    }
    return all;
  }

  bool refit_group(const std::vector<Member>& members, std::int64_t rank, double least_damping, SharedFit& fit) const {
    double least = held_out_error(members, fit) * (1 - kWorthIt);
    bool better = false;
    const double unit = fit.error;
    const Matrix now = fit.shared;
    for (const double damping : kDampings) {
      if (damping < least_damping) continue;
      auto tried = solve(members, options_, now, rank, damping);
      if (!tried) continue;  // not positive definite with so little damping
      const double error = held_out_error(members, *tried);
      if (!(error < least) && better) break;
      if (!(error < least)) continue;
      least = error;
      better = true;
      fit = std::move(*tried);
      fit.error = unit;
    }
    return better;
  }

  const Model& aligned_;
  const std::vector<TieGroup>& groups_;
  const TieOptions& options_;
  const std::vector<std::int64_t>& ranks_;
  const Dataset& data_;
  const DamageMeter& meter_;
  RefitTargets targets_;
  std::unique_ptr<Model> student_;  // whose nodes the jobs name
  std::vector<Site> sites_;
  Recording stream_;  // of the original: between its blocks
  std::vector<RowMask> masks_;
};

}  // namespace

Result<TiedRefit> refit_tied(const Model& aligned, const std::vector<TieGroup>& groups, const TieOptions& options,
                             const std::vector<std::int64_t>& ranks, const Dataset& data, const DamageMeter& meter,
                             int sweeps, std::vector<SharedFit>& fits) {
  Sweeper sweeper(aligned, groups, options, ranks, data, meter);
  OF_TRY(sweeper.prepare(fits));
  OF_ASSIGN(State state, sweeper.judged(fits));
  TiedRefit result{0, 0, state.damage, state.damage};
  for (int sweep = 0; sweep < sweeps; ++sweep) {
    OF_ASSIGN(const std::size_t solved, sweeper.sweep(state));
    if (solved == 0) break;
    const double gone = 1 - state.damage / result.after;
    result.after = state.damage;
    result.solved += solved;
    ++result.sweeps;
    if (gone < kWorthASweep) break;
  }
  fits = std::move(state.fits);
  return result;
}

}  // namespace onnxfold
