#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>

#include "analysis/algebra/ridge.h"
#include "analysis/calibrate/refit.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/linear.h"
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
      : merged_(merged), parents_(parents), data_(data), options_(options), student_(merged, data) {
    for (const Model* parent : parents) teachers_.emplace_back(*parent, data);
  }

  Result<int> run() {
    OF_TRY(find_stages());
    int fitted = 0;
    for (int round = 0; round < options_.rounds; ++round) {
      student_.restart();
      for (ValueWalk& teacher : teachers_) teacher.restart();
      for (const Stage& stage : stages_) {
        OF_ASSIGN(const int count, fit(stage));
        fitted += count;
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
      for (const std::string& name : stage.products) {
        for (const Correspondence& map : maps_) {
          const auto join = joins_.find(name);
          const std::string& target = join == joins_.end() ? name : join->second.sum;
          const auto found = map.first_of.find(merged_.graph().find(target));
          if (found == map.first_of.end()) return fail(Code::kInternal, "repair: value '" + name + "' has no partner");
          names_[name].push_back(found->second->name());
        }
      }
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

  // What the Linears of a stage should give: the mean of the parents, by output and batch.
  using Targets = std::map<std::string, std::vector<Matrix>>;
  Result<Targets> targets_of(const Stage& stage) {
    double total = 0;
    for (const double weight : options_.weights) total += weight;
    Targets targets;
    for (std::size_t p = 0; p < parents_.size(); ++p) {
      std::vector<std::string> values;
      for (const std::string& name : stage.products) values.push_back(names_.at(name)[p]);
      OF_ASSIGN(const std::vector<Taps>* const batches, teachers_[p].at(values));
      for (std::size_t batch = 0; batch < batches->size(); ++batch) {
        for (std::size_t i = 0; i < values.size(); ++i) {
          OF_ASSIGN(const Matrix rows, rows_of((*batches)[batch].at(values[i]), mask_of(batch)));
          std::vector<Matrix>& target = targets[stage.products[i]];
          target.resize(batches->size());
          if (target[batch].empty()) target[batch] = Matrix(rows.rows, rows.cols);
          target[batch] = sum(target[batch], rows, options_.weights[p] / total);
        }
      }
    }
    return targets;
  }
  RowMask mask_of(std::size_t batch) const { return row_mask(merged_, data_.batches[batch]); }

  Result<int> fit(const Stage& stage) {
    OF_ASSIGN(const Targets targets, targets_of(stage));
    std::vector<std::string> values = {stage.input};
    for (const std::string& name : stage.products) {
      if (const auto join = joins_.find(name); join != joins_.end()) values.push_back(join->second.other);
    }
    OF_ASSIGN(const std::vector<Taps>* const batches, student_.at(values));
    std::array<Matrix, 2> gram;  // of the even and the odd batches
    std::map<std::string, std::array<Matrix, 2>> crosses;
    for (std::size_t batch = 0; batch < batches->size(); ++batch) {
      const Taps& taps = (*batches)[batch];
      const RowMask mask = mask_of(batch);
      OF_ASSIGN(const Matrix rows, rows_of(taps.at(stage.input), mask));
      const Matrix x = with_ones(rows);
      add_gram(gram[batch % 2], x, x);
      for (const std::string& name : stage.products) {
        Matrix target = targets.at(name)[batch];
        if (const auto join = joins_.find(name); join != joins_.end()) {
          OF_ASSIGN(const Matrix other, rows_of(taps.at(join->second.other), mask));
          target = sum(target, other, -1);
        }
        add_gram(crosses[name][batch % 2], x, target);
      }
    }
    int fitted = 0;
    for (const std::string& name : stage.products) {
      const auto linear = linear_making(merged_.graph().find(name));
      if (!linear) continue;
      OF_TRY(solve(*linear, gram, crosses.at(name)));
      ++fitted;
    }
    return fitted;
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

  Status solve(const Linear& linear, const std::array<Matrix, 2>& gram, const std::array<Matrix, 2>& cross) {
    OF_ASSIGN(Matrix prior, weight_matrix(linear));
    OF_ASSIGN(const std::vector<double> bias, bias_vector(linear));
    const std::int64_t in = linear.in, rows = linear.bias == nullptr ? in : in + 1;
    if (linear.bias != nullptr) prior.data.insert(prior.data.end(), bias.begin(), bias.end());
    prior.rows = rows;
    const std::array<Problem, 2> halves = {
        problem(gram[0], cross[0], rows),
        gram[1].empty() ? Problem{Matrix(rows, rows), Matrix(rows, linear.out)} : problem(gram[1], cross[1], rows)};
    OF_ASSIGN(const double amount, damping(halves, prior));
    OF_ASSIGN(const Matrix solved,
              ridge_solve(sum(halves[0].gram, halves[1].gram), sum(halves[0].cross, halves[1].cross), amount, &prior));
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
  std::vector<Stage> stages_;
  std::vector<Correspondence> maps_;
  std::map<std::string, Join> joins_;                      // by output of a Linear
  std::map<std::string, std::vector<std::string>> names_;  // output of a Linear -> its name in every parent
  ValueWalk student_;
  std::vector<ValueWalk> teachers_;
};

}  // namespace

Result<int> repair_ridge(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                         const RepairOptions& options) {
  return Repair(merged, parents, data, options).run();
}

}  // namespace onnxfold
