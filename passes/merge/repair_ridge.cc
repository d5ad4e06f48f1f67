#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "analysis/algebra/ridge.h"
#include "analysis/calibrate/refit.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/linear.h"
#include "passes/merge/read_position.h"
#include "passes/merge/repair.h"
#include "passes/merge/value_walk.h"

namespace onnxfold {
namespace {

// Linears that read one value are fitted together.
struct Stage {
  std::string input;                  // in the merged model
  std::vector<std::string> products;  // outputs of the Linears, which stay when their weights change
};

// The Linear's output joins the residual stream: what the sum should be says more than what the branch should be, as
// the branch then also makes good what the stream lost before.
struct Join {
  std::string sum, other;  // values of the merged model
};

class Repair {
 public:
  Repair(Model& merged, const std::vector<const Model*>& parents, const Dataset& data, const RepairOptions& options)
      : merged_(merged),
        parents_(parents),
        data_(data),
        options_(options),
        read_(options.focus != 1 ? read_position(merged.graph()) : std::nullopt),
        student_(merged, data) {
    for (const Model* parent : parents) teachers_.emplace_back(*parent, data);
  }

  Result<int> run() {
    OF_TRY(find_stages());
    int fitted = 0;
    for (const Stage& stage : stages_) {
      for (const std::string& name : stage.products) inputs_[name] = stage.input;
    }
    for (const auto& join : joins_) ending_at_[join.second.sum] = join.first;
    note_asks();
    for (int round = 0; round < options_.rounds; ++round) {
      student_.restart();
      paired_.clear();
      for (ValueWalk& teacher : teachers_) teacher.restart();
      for (stage_ = 0; stage_ < stages_.size(); ++stage_) {
        const Stage& stage = stages_[stage_];
        OF_ASSIGN(const int count, fit(stage));
        fitted += count;
        for (const std::string& name : stage.products) OF_TRY(fit_pair(name));
      }
    }
    return fitted;
  }

 private:
  // Of a weight that several Linears share there is no one target.
  Status find_stages() {
    std::map<std::string, std::size_t> place;
    for (const Linear& linear : find_linears(merged_.graph())) {
      if (linear.weight->uses().size() != 1 || linear.weight_transpose != nullptr) continue;
      if (linear.bias != nullptr && linear.bias->uses().size() != 1) continue;
      const auto [found, fresh] = place.emplace(linear.input->name(), stages_.size());
      if (fresh) stages_.push_back({linear.input->name(), {}});
      stages_[found->second].products.push_back(linear.output->name());
      if (options_.stream) find_join(*linear.output);
    }
    for (const Model* parent : parents_) {
      OF_ASSIGN(maps_.emplace_back(), correspond(parent->graph(), merged_.graph()));
    }
    for (const Stage& stage : stages_) {
      for (const std::string& name : stage.products) OF_TRY(find_names(name));
    }
    return {};
  }

  // Which values this and the following stages ask for, of the merged model and of each parent, by stage.
  void note_asks() {
    student_asks_.assign(stages_.size() + 1, {});
    teacher_asks_.assign(parents_.size(), student_asks_);
    for (std::size_t i = stages_.size(); i-- > 0;) {
      std::set<std::string>& asks = student_asks_[i] = student_asks_[i + 1];
      for (auto& teacher : teacher_asks_) teacher[i] = teacher[i + 1];
      asks.insert(stages_[i].input);
      for (const std::string& name : stages_[i].products) {
        for (std::size_t p = 0; p < parents_.size(); ++p) teacher_asks_[p][i].insert(names_.at(name)[p]);
        const auto join = joins_.find(name);
        if (join == joins_.end()) continue;
        asks.insert(join->second.other);
        const auto before = options_.together ? ending_at_.find(join->second.other) : ending_at_.end();
        if (before == ending_at_.end()) continue;
        asks.insert({inputs_.at(before->second), joins_.at(before->second).other});
      }
    }
  }

  // Where every parent has what the Linear that makes `name` aims at.
  Status find_names(const std::string& name) {
    const auto join = joins_.find(name);
    const std::string& target = join == joins_.end() ? name : join->second.sum;
    names_[name].clear();
    for (const Correspondence& map : maps_) {
      const auto found = map.first_of.find(merged_.graph().find(target));
      if (found == map.first_of.end()) return fail(Code::kInternal, "repair: value '" + name + "' has no partner");
      names_[name].push_back(found->second->name());
    }
    return {};
  }

  // Open dimensions look alike whatever they are: a sum with something that is spread over batches or positions is no
  // stream. Such Linears aim at their own results.
  Status drop_spread_joins(const Stage& stage, const Taps& taps) {
    const Dims& rows = taps.at(stage.input).array.dims();
    for (const std::string& name : stage.products) {
      const auto join = joins_.find(name);
      if (join == joins_.end()) continue;
      const Dims& other = taps.at(join->second.other).array.dims();
      if (other.size() == rows.size() && std::equal(other.begin(), other.end() - 1, rows.begin())) continue;
      ending_at_.erase(join->second.sum);
      joins_.erase(join);
      OF_TRY(find_names(name));
    }
    return {};
  }

  void find_join(const Value& output) {
    const Node* add = output.uses().size() == 1 ? output.uses().front().node : nullptr;
    if (add == nullptr || !add->is("Add") || add->graph() != output.graph()) return;
    const Value* other = add->input(add->input(0) == &output ? 1 : 0);
    const bool same = other != &output && parameter(other) == nullptr && other->type().shape == output.type().shape &&
                      add->output()->type().shape == output.type().shape && output.type().shape.has_value();
    if (same) joins_[output.name()] = {add->output()->name(), other->name()};
  }

  // Values of the parents, of which the Linears of a stage should give the mean: by parent, then by batch.
  using Targets = std::vector<const std::vector<Taps>*>;
  Result<Targets> targets_of(const Stage& stage) {
    Targets targets;
    for (std::size_t p = 0; p < parents_.size(); ++p) {
      std::vector<std::string> values;
      for (const std::string& name : stage.products) values.push_back(names_.at(name)[p]);
      OF_ASSIGN(targets.emplace_back(), teachers_[p].at(values, teacher_asks_[p][stage_]));
    }
    return targets;
  }
  Result<Matrix> target_of(const Targets& targets, const std::string& product, std::size_t batch) const {
    double total = 0;
    for (const double weight : options_.weights) total += weight;
    Matrix target;
    for (std::size_t p = 0; p < parents_.size(); ++p) {
      OF_ASSIGN(const Matrix rows, rows_of((*targets[p])[batch].at(names_.at(product)[p]), mask_of(batch)));
      if (target.empty()) target = Matrix(rows.rows, rows.cols);
      target = sum(target, rows, options_.weights[p] / total);
    }
    return target;
  }
  RowMask mask_of(std::size_t batch) const { return row_mask(merged_, data_.batches[batch]); }

  Result<int> fit(const Stage& stage) {
    std::vector<std::string> values = {stage.input};
    for (const std::string& name : stage.products) {
      if (const auto join = joins_.find(name); join != joins_.end()) values.push_back(join->second.other);
    }
    OF_ASSIGN(const std::vector<Taps>* const batches, student_.at(values, student_asks_[stage_]));
    if (!batches->empty()) OF_TRY(drop_spread_joins(stage, batches->front()));
    OF_ASSIGN(const Targets targets, targets_of(stage));
    std::array<Matrix, 2> gram;  // of the even and the odd batches
    std::map<std::string, std::array<Matrix, 2>> crosses;
    for (std::size_t batch = 0; batch < batches->size(); ++batch) {
      const Taps& taps = (*batches)[batch];
      const RowMask mask = mask_of(batch);
      OF_ASSIGN(const Matrix rows, rows_of(taps.at(stage.input), mask));
      Matrix x = with_ones(rows);
      focus(x, taps.at(stage.input), mask);
      add_gram(gram[batch % 2], x, x);
      for (const std::string& name : stage.products) {
        OF_ASSIGN(Matrix target, target_of(targets, name, batch));
        if (const auto join = joins_.find(name); join != joins_.end()) {
          OF_ASSIGN(const Matrix other, rows_of(taps.at(join->second.other), mask));
          target = sum(target, other, -1);
        }
        focus(target, taps.at(stage.input), mask);
        add_gram(crosses[name][batch % 2], x, target);
      }
    }
    int fitted = 0;
    for (const std::string& name : stage.products) {
      const auto linear = linear_making(merged_.graph().find(name));
      if (!linear) continue;
      const Status solved = solve(*linear, gram, crosses.at(name));
      if (!solved) return fail(solved.error().in(linear->product->label()));
      ++fitted;
    }
    return fitted;
  }

  // Two branches in a row (attention, then feed-forward) come closer to the stream behind both together than one after
  // the other. Then the second once more, as what it reads has changed.
  Status fit_pair(const std::string& second) {
    const auto join = joins_.find(second);
    if (!options_.together || join == joins_.end()) return {};
    const auto before = ending_at_.find(join->second.other);
    if (before == ending_at_.end() || paired_.count(before->second) != 0) return {};
    const std::string first = before->second;
    const auto a = linear_making(merged_.graph().find(first)), b = linear_making(merged_.graph().find(second));
    if (!a || !b || inputs_.at(first) == inputs_.at(second)) return {};
    paired_.insert(second);
    OF_TRY(solve_pair(*a, *b));
    student_.keep_only({inputs_.at(first), joins_.at(first).other});
    const auto again = fit({inputs_.at(second), {second}});
    return again ? Status() : fail(again.error());
  }
  // [W1; W2; b2] of x1 W1 + x2 W2 + b2 = stream behind both - stream before - b1.
  Status solve_pair(const Linear& a, const Linear& b) {
    const std::string& first = a.output->name();
    const std::string& second = b.output->name();
    const std::string stream = joins_.at(first).other;
    OF_ASSIGN(const Targets targets, targets_of({inputs_.at(second), {second}}));
    OF_ASSIGN(const std::vector<Taps>* const batches,
              student_.at({inputs_.at(first), stream, inputs_.at(second)}, student_asks_[stage_]));
    OF_ASSIGN(const std::vector<double> own_bias, bias_vector(a));
    std::array<Matrix, 2> gram, cross;
    for (std::size_t batch = 0; batch < batches->size(); ++batch) {
      const Taps& taps = (*batches)[batch];
      const RowMask mask = mask_of(batch);
      OF_ASSIGN(const RowView x1, RowView::of(taps.at(inputs_.at(first)), mask));
      OF_ASSIGN(const RowView x2, RowView::of(taps.at(inputs_.at(second)), mask));
      OF_ASSIGN(const Matrix other, rows_of(taps.at(stream), mask));
      if (x1.rows() != x2.rows()) return {};
      Matrix x = with_ones(RowView::beside(x1, x2).matrix());
      OF_ASSIGN(Matrix target, target_of(targets, second, batch));
      target = sum(target, other, -1);
      for (std::size_t i = 0; i < target.data.size(); ++i) target.data[i] -= own_bias[i % own_bias.size()];
      focus(x, taps.at(inputs_.at(second)), mask);
      focus(target, taps.at(inputs_.at(second)), mask);
      add_gram(gram[batch % 2], x, x);
      add_gram(cross[batch % 2], x, target);
    }
    return replace_pair(a, b, gram, cross);
  }
  Status replace_pair(const Linear& a, const Linear& b, const std::array<Matrix, 2>& gram,
                      const std::array<Matrix, 2>& cross) {
    OF_ASSIGN(Matrix prior, weight_matrix(a));
    OF_ASSIGN(const Matrix second, weight_matrix(b));
    OF_ASSIGN(const std::vector<double> bias_a, bias_vector(a));
    OF_ASSIGN(const std::vector<double> bias_b, bias_vector(b));
    prior.data.insert(prior.data.end(), second.data.begin(), second.data.end());
    if (b.bias != nullptr) prior.data.insert(prior.data.end(), bias_b.begin(), bias_b.end());
    prior.rows += second.rows + (b.bias != nullptr ? 1 : 0);
    OF_ASSIGN(const Matrix solved, regression(gram, cross, prior));
    Matrix one(a.in, a.out), two(b.in, b.out);
    std::copy_n(solved.data.begin(), one.data.size(), one.data.begin());
    std::copy_n(solved.data.begin() + static_cast<std::ptrdiff_t>(one.data.size()), two.data.size(), two.data.begin());
    OF_TRY(replace(a, one, a.bias != nullptr ? &bias_a : nullptr));
    const std::vector<double> shift(solved.data.end() - b.out, solved.data.end());
    return replace(b, two, b.bias != nullptr ? &shift : nullptr);
  }

  // Rows of the position that the outputs read count more.
  void focus(Matrix& rows, const Datum& from, const RowMask& mask) const {
    if (!read_ || !mask.keep.empty() || !from.is_array() || from.array.rank() != 3) return;
    const std::int64_t positions = from.array.dim(1);
    if (*read_ >= positions || rows.rows != from.array.dim(0) * positions) return;
    const double factor = std::sqrt(options_.focus);
    for (std::int64_t row = *read_; row < rows.rows; row += positions) {
      const auto begin = rows.data.begin() + row * rows.cols;
      std::transform(begin, begin + rows.cols, begin, [&](double x) { return factor * x; });
    }
  }

  // The regression of one Linear, from one half of the data. A Linear without bias stays one: its column of ones is
  // left out.
  struct Problem {
    Matrix gram, cross;
  };
  static Problem problem(const Matrix& gram, const Matrix& cross, std::int64_t rows) {
    Problem part{Matrix(rows, rows), Matrix(rows, cross.cols)};
    if (gram.empty()) return part;
    for (std::int64_t i = 0; i < rows; ++i) {
      std::copy_n(gram.data.begin() + i * gram.cols, rows, part.gram.data.begin() + i * rows);
      std::copy_n(cross.data.begin() + i * cross.cols, cross.cols, part.cross.data.begin() + i * cross.cols);
    }
    return part;
  }

  // ||X W - Y||^2 but for ||Y||^2, which no W changes.
  static double error(const Problem& data, const Matrix& w) {
    const Matrix gw = product(data.gram, w);
    double result = 0;
    for (std::size_t i = 0; i < w.data.size(); ++i) result += w.data[i] * (gw.data[i] - 2 * data.cross.data[i]);
    return result;
  }

  // The damping whose fit to one half of the batches does best on the other half.
  Result<double> damping(const std::array<Problem, 2>& halves, const Matrix& prior) const {
    if (options_.damping > 0) return options_.damping;
    constexpr std::array kGrid = {1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0};
    double best = kGrid[2], least = std::numeric_limits<double>::infinity();
    if (halves[1].gram.at(0, 0) == 0 && frobenius_norm(halves[1].gram) == 0) return best;  // a single batch
    for (const double candidate : kGrid) {
      double held_out = 0;
      for (std::size_t half = 0; half < 2; ++half) {
        OF_ASSIGN(const Matrix w, ridge_solve(halves[half].gram, halves[half].cross, candidate, &prior));
        held_out += error(halves[1 - half], w);
      }
      if (held_out < least) {
        least = held_out;
        best = candidate;
      }
    }
    return best;
  }

  Result<Matrix> regression(const std::array<Matrix, 2>& gram, const std::array<Matrix, 2>& cross,
                            const Matrix& prior) const {
    const std::int64_t rows = prior.rows;
    const std::array<Problem, 2> halves = {
        problem(gram[0], cross[0], rows),
        gram[1].empty() ? Problem{Matrix(rows, rows), Matrix(rows, prior.cols)} : problem(gram[1], cross[1], rows)};
    OF_ASSIGN(const double amount, damping(halves, prior));
    return ridge_solve(sum(halves[0].gram, halves[1].gram), sum(halves[0].cross, halves[1].cross), amount, &prior);
  }

  Status solve(const Linear& linear, const std::array<Matrix, 2>& gram, const std::array<Matrix, 2>& cross) {
    OF_ASSIGN(Matrix prior, weight_matrix(linear));
    OF_ASSIGN(const std::vector<double> bias, bias_vector(linear));
    const std::int64_t in = linear.in, rows = linear.bias == nullptr ? in : in + 1;
    if (linear.bias != nullptr) prior.data.insert(prior.data.end(), bias.begin(), bias.end());
    prior.rows = rows;
    OF_ASSIGN(const Matrix solved, regression(gram, cross, prior));
    Matrix fitted(in, linear.out);
    std::copy_n(solved.data.begin(), fitted.data.size(), fitted.data.begin());
    if (linear.bias == nullptr) return replace(linear, fitted, nullptr);
    const std::vector<double> shift(solved.data.end() - linear.out, solved.data.end());
    return replace(linear, fitted, &shift);
  }
  Status replace(const Linear& linear, const Matrix& weight, const std::vector<double>* bias) {
    const auto replaced = replace_linear(merged_.graph(), linear, weight, bias);
    if (!replaced) return fail(replaced.error());
    return {};
  }

  Model& merged_;
  const std::vector<const Model*>& parents_;
  const Dataset& data_;
  const RepairOptions& options_;
  std::optional<std::int64_t> read_;
  std::vector<Stage> stages_;
  std::vector<Correspondence> maps_;
  std::map<std::string, Join> joins_;                      // by output of a Linear
  std::map<std::string, std::vector<std::string>> names_;  // output of a Linear -> its name in every parent
  std::map<std::string, std::string> inputs_;              // of a Linear, by its output
  std::map<std::string, std::string> ending_at_;           // the sum that a Linear ends in -> its output
  std::set<std::string> paired_;                           // were second of a pair
  std::size_t stage_ = 0;
  std::vector<std::set<std::string>> student_asks_;               // by stage
  std::vector<std::vector<std::set<std::string>>> teacher_asks_;  // by parent and stage
  ValueWalk student_;
  std::vector<ValueWalk> teachers_;
};

}  // namespace

Result<int> repair_ridge(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                         const RepairOptions& options) {
  return Repair(merged, parents, data, options).run();
}

}  // namespace onnxfold
