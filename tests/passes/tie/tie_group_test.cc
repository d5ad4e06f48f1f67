// Fits of the layers of a trained model, on data that no fit has seen.
#include "passes/tie/tie_group.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "formats/onnx/onnx_file.h"
#include "tests/support/paths.h"

namespace onnxfold::tie_group_test {
namespace {

class TrainedLayers : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model = load_model(test::source_path("samples/bytelm.onnx"))->release();
    const std::vector<LayerStack> stacks = layer_stacks(model->graph(), 0, 0);
    groups = new std::vector<TieGroup>;
    std::set<std::string> names;
    for (const std::size_t loops : {2, 3}) {
      std::vector<TieGroup> all = *tie_groups(stacks.at(0), Looping::kCycle, loops);
      for (TieGroup& group : all) {
        // The first unique layer, one Linear of each shape and input.
        const bool chosen = group.role == "attention.q" || group.role == "attention.out" || group.role == "ffn.down";
        if (!chosen || group.blocks[0] != 0 || (loops == 3 && group.role != "attention.out")) continue;
        for (const Linear& linear : group.linears) names.insert(linear.input->name());
        groups->push_back(std::move(group));
      }
    }
    fitted = statistics("samples/kjv_calib.npz", names, 32);
    held_out = statistics("samples/kjv_valid.npz", names, 8);
  }
  void SetUp() override { ASSERT_EQ(groups->size(), 4U); }
  static void TearDownTestSuite() {
    delete held_out;
    delete fitted;
    delete groups;
    delete model;
  }

  static InputStatistics* statistics(const std::string& file, const std::set<std::string>& names,
                                     std::int64_t samples) {
    const Dataset data = *load_dataset(*model, test::source_path(file), {.batch_size = 8, .max_samples = samples});
    return new InputStatistics(*collect_statistics(*model, data, {names.begin(), names.end()}));
  }

  // sum ||X (W - W' - A B)||^2 on inputs that were held out (or, plain, without X).
  static double error_of(const TieGroup& group, const SharedFit& fit, bool on_data) {
    double error = 0;
    for (std::size_t l = 0; l < group.linears.size(); ++l) {
      Matrix rest = sum(*group.weights.members[l].matrix(), fit.shared, -1);
      const LowRank& pair = fit.corrections[l];
      if (pair.a.cols > 0) rest = sum(rest, product(pair.a, pair.b), -1);
      const Matrix weighed = on_data ? product(held_out->at(group.linears[l].input->name()).gram, rest) : rest;
      for (std::size_t i = 0; i < rest.data.size(); ++i) error += rest.data[i] * weighed.data[i];
    }
    return error;
  }

  static Model* model;
  static std::vector<TieGroup>* groups;
  static InputStatistics *fitted, *held_out;
};

Model* TrainedLayers::model = nullptr;
std::vector<TieGroup>* TrainedLayers::groups = nullptr;
InputStatistics* TrainedLayers::fitted = nullptr;
InputStatistics* TrainedLayers::held_out = nullptr;

TEST_F(TrainedLayers, TheClosedFormNeverHasMoreWeightErrorThanAverageAndSvd) {
  for (const TieGroup& group : *groups) {
    const bool two = group.linears.size() == 2;
    for (const std::int64_t rank : {0, 8}) {
      const TieOptions better{TieStart::kAverage, two ? TieFactors::kClosed : TieFactors::kAlternate, 2};
      const double best = error_of(group, *fit_group(group, {}, better, rank), false);
      const double papers =
          error_of(group, *fit_group(group, {}, {TieStart::kAverage, TieFactors::kSvd, 0}, rank), false);
      EXPECT_LE(best, papers * (1 + 1e-12)) << group.role << " " << rank;
      if (rank > 0) {
        EXPECT_LT(best, 0.99 * papers) << group.role << " " << rank;
      }
    }
  }
}

TEST_F(TrainedLayers, WhitenedNeverHasMoreOutputErrorOnHeldOutData) {
  for (const TieGroup& group : *groups) {
    for (const TieStart start : {TieStart::kAverage, TieStart::kWeighted}) {
      for (const std::int64_t rank : {8}) {
        const double plain = error_of(group, *fit_group(group, *fitted, {start, TieFactors::kSvd, 0}, rank), true);
        const double whitened =
            error_of(group, *fit_group(group, *fitted, {start, TieFactors::kWhitened, 0}, rank), true);
        EXPECT_LE(whitened, plain) << group.role << " " << rank << " " << static_cast<int>(start);
      }
    }
  }
}

TEST_F(TrainedLayers, LeastSquaresHasLessOutputErrorOnHeldOutDataThanAnyOtherStart) {
  for (const TieGroup& group : *groups) {
    const double least =
        error_of(group, *fit_group(group, *fitted, {TieStart::kWeighted, TieFactors::kSvd, 0}, 0), true);
    for (const TieStart start : {TieStart::kAverage, TieStart::kLower, TieStart::kStepwise}) {
      EXPECT_LT(least, error_of(group, *fit_group(group, *fitted, {start, TieFactors::kSvd, 0}, 0), true))
          << group.role;
    }
  }
}

}  // namespace
}  // namespace onnxfold::tie_group_test
