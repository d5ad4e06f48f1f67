#include "converter/gates.h"

#include <fmt/format.h>

#include <cmath>

namespace onnxfold {

bool Gates::empty() const {
  return !max_abs && !max_rel_l2 && !min_cosine && !min_sqnr && !max_kl && !min_top1 && !max_accuracy_drop &&
         !max_perplexity_increase;
}

Gates default_gates(Exactness exactness, const Comparison& comparison, std::string& why) {
  Gates gates;
  if (exactness != Exactness::kLossy) {
    // Run in float64, so arithmetic adds nothing; but weights that a pass folded are stored in their own type again.
    // Where the double twin of the model speaks, rounded_weights_gates() takes the place of this one.
    gates.max_rel_l2 = tolerance(exactness, false);
    why = exactness == Exactness::kExact ? "default for exact passes"
                                         : "default for passes that reorder arithmetic and round folded weights once";
  } else if (comparison.task && comparison.task->kind == "accuracy") {
    gates.max_accuracy_drop = 0.02;
    why = "default with labels: at most 2 points of accuracy";
  } else if (comparison.task) {
    gates.max_perplexity_increase = 5;
    why = "default for token models: at most 5 % of perplexity";
  } else {
    // A 4-bit sentence encoder keeps about 0.96; a ruined model falls to 0.9 and below.
    gates.min_cosine = 0.9;
    why = "default without labels: every output's direction within cosine 0.9";
  }
  return gates;
}

Gates rounded_weights_gates(bool half_weights, std::string& why) {
  Gates gates;
  gates.max_rel_l2 = half_weights ? 0.05 : 1e-3;
  why = "proved on the model in double; what is left is folded weights rounded once to their own type";
  return gates;
}

namespace {

class Checker {
 public:
  explicit Checker(std::vector<GateResult>& results) : results_(results) {}

  void at_most(const std::optional<double>& limit, const char* gate, const std::string& output, double measured,
               const std::string& detail) {
    if (limit) results_.push_back({gate, output, *limit, measured, measured <= *limit, detail});  // NaN fails
  }
  void at_least(const std::optional<double>& limit, const char* gate, const std::string& output, double measured,
                const std::string& detail) {
    if (limit) results_.push_back({gate, output, *limit, measured, measured >= *limit, detail});
  }
  void broken(const char* gate, const std::string& output, const std::string& detail) {
    results_.push_back({gate, output, 0, 1, false, detail});
  }

 private:
  std::vector<GateResult>& results_;
};

void check_output(const Gates& gates, const OutputMetrics& output, Checker& check) {
  const std::string worst = output.worst_element.empty() ? "" : "worst element " + output.worst_element;
  if (output.shape_or_type_differs) check.broken("same-shape", output.output, output.worst_element);
  if (output.new_nan_or_inf) check.broken("no-new-nan", output.output, worst);
  check.at_most(gates.max_abs, "max-abs", output.output, output.max_abs, worst);
  check.at_most(gates.max_rel_l2, "max-rel-l2", output.output, output.max_rel_l2, worst);
  check.at_least(gates.min_cosine, "min-cosine", output.output, output.cosine, worst);
  check.at_least(gates.min_sqnr, "min-sqnr", output.output, output.sqnr_db, worst);
  if (output.kl) check.at_most(gates.max_kl, "max-kl", output.output, *output.kl, worst);
  if (output.top1) check.at_least(gates.min_top1, "min-top1", output.output, *output.top1, worst);
}

// Percent by which perplexity grew; bits per byte are its logarithm to base 2.
double perplexity_increase(const TaskMetrics& task) {
  if (task.kind == "bits per byte") return 100 * (std::exp2(task.after - task.before) - 1);
  return 100 * (task.after / task.before - 1);
}

void check_task(const Gates& gates, const Comparison& comparison, Checker& check) {
  const bool accuracy = comparison.task && comparison.task->kind == "accuracy";
  const bool tokens = comparison.task && !accuracy;
  if (gates.max_accuracy_drop) {
    if (accuracy) {
      check.at_most(gates.max_accuracy_drop, "max-accuracy-drop", "task",
                    comparison.task->before - comparison.task->after, "");
    } else {
      check.broken("max-accuracy-drop", "task", "the data has no labels");
    }
  }
  if (gates.max_perplexity_increase) {
    if (tokens) {
      check.at_most(gates.max_perplexity_increase, "max-perplexity-increase", "task",
                    perplexity_increase(*comparison.task), "");
    } else {
      check.broken("max-perplexity-increase", "task", "the data has no tokens to predict");
    }
  }
}

}  // namespace

std::vector<GateResult> check_gates(const Gates& gates, const Comparison& comparison) {
  std::vector<GateResult> results;
  Checker check(results);
  for (const OutputMetrics& output : comparison.outputs) check_output(gates, output, check);
  const bool any_rows = [&] {
    for (const OutputMetrics& output : comparison.outputs) {
      if (output.kl) return true;
    }
    return false;
  }();
  if (!any_rows && gates.max_kl) check.broken("max-kl", "all outputs", "no output has rows of scores");
  if (!any_rows && gates.min_top1) check.broken("min-top1", "all outputs", "no output has rows of scores");
  check_task(gates, comparison, check);
  return results;
}

}  // namespace onnxfold
