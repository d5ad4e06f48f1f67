// ot: copies in another order come back, widened models fold back, and maps are what they should be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "analysis/algebra/orthogonal.h"
#include "analysis/align/cross_statistics.h"
#include "analysis/align/transport.h"
#include "analysis/structure/correspondence.h"
#include "passes/merge/method.h"
#include "passes/merge/residual_policy.h"
#include "passes/merge/transport_flow.h"
#include "tests/passes/merge/small_transformer.h"
#include "tests/support/equivalence.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::ot_test {
namespace {

using test::difference;
using test::disguised;
using test::largest_difference;
using test::random_matrix;
using test::transformer;
using ::testing::HasSubstr;

Matrix random_cost(std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
  Matrix cost = random_matrix(rows, cols, seed);
  for (double& x : cost.data) x = std::abs(x) / 4;
  return cost;
}

void expect_uniform_marginals(const Matrix& plan, double tolerance) {
  for (std::int64_t i = 0; i < plan.rows; ++i) {
    double row = 0;
    for (std::int64_t j = 0; j < plan.cols; ++j) {
      EXPECT_GE(plan.at(i, j), 0);
      row += plan.at(i, j);
    }
    EXPECT_NEAR(row, 1.0 / static_cast<double>(plan.rows), tolerance);
  }
  for (std::int64_t j = 0; j < plan.cols; ++j) {
    double column = 0;
    for (std::int64_t i = 0; i < plan.rows; ++i) column += plan.at(i, j);
    EXPECT_NEAR(column, 1.0 / static_cast<double>(plan.cols), tolerance);
  }
}

TEST(Transport, ExactPlansOfUnequalSizes) {
  const Matrix cost = random_cost(6, 4, 1);
  const Matrix plan = *exact_transport(cost);
  expect_uniform_marginals(plan, 1e-15);
  // The same by rows and columns repeated to a square (12), which is an assignment.
  Matrix square(12, 12);
  for (std::int64_t i = 0; i < 12; ++i) {
    for (std::int64_t j = 0; j < 12; ++j) square.at(i, j) = cost.at(i / 2, j / 3);
  }
  EXPECT_NEAR(transport_cost(plan, cost), transport_cost(*exact_transport(square), square), 1e-12);
}

// Distances of numbers tie everywhere: the simplex must end, at what sorting gives.
TEST(Transport, ExactPlansOfUnequalSizesWhereCostsTie) {
  for (std::uint32_t seed = 1; seed < 9; ++seed) {
    const std::vector<double> x = random_matrix(1, 144, seed).data, y = random_matrix(1, 96, seed + 100).data;
    const Matrix cost = distances(x, y);
    std::vector<double> sorted_x, sorted_y;  // both repeated to 288
    for (int i = 0; i < 288; ++i) {
      sorted_x.push_back(x[static_cast<std::size_t>(i / 2)]);
      sorted_y.push_back(y[static_cast<std::size_t>(i / 3)]);
    }
    std::sort(sorted_x.begin(), sorted_x.end());
    std::sort(sorted_y.begin(), sorted_y.end());
    double least = 0, largest = 0;
    for (std::size_t i = 0; i < sorted_x.size(); ++i) least += std::abs(sorted_x[i] - sorted_y[i]) / 288;
    for (const double a : x) {
      for (const double b : y) largest = std::max(largest, std::abs(a - b));
    }
    const Matrix plan = *exact_transport(cost);
    expect_uniform_marginals(plan, 1e-15);
    EXPECT_NEAR(transport_cost(plan, cost), least / largest, 1e-12);
  }
}

TEST(Transport, SinkhornTendsToTheExactPlanAndToTheUniformOne) {
  const Matrix cost = random_cost(9, 9, 2);
  const Matrix exact = *exact_transport(cost);
  SinkhornOptions options;
  options.lambda = 0.001;
  options.iterations = 20000;
  const Matrix sharp = *sinkhorn(cost, options);
  expect_uniform_marginals(sharp, 1e-3);
  EXPECT_NEAR(transport_cost(sharp, cost), transport_cost(exact, cost), 2e-3);
  options.lambda = 1e6;
  const Matrix flat = *sinkhorn(cost, options);
  for (const double x : flat.data) EXPECT_NEAR(x, 1.0 / 81, 1e-8);
}

TEST(Transport, LogDomainAgreesWithTheProductForm) {
  Matrix cost = random_cost(7, 5, 3);
  SinkhornOptions options;
  options.lambda = 0.1;
  const Matrix plain = *sinkhorn(cost, options);
  expect_uniform_marginals(plain, 1e-8);
  // A constant on top changes no plan, and makes exp vanish.
  for (double& x : cost.data) x += 100;
  const Matrix logarithmic = *sinkhorn(cost, options);
  for (std::size_t i = 0; i < plain.data.size(); ++i) EXPECT_NEAR(logarithmic.data[i], plain.data[i], 1e-7);
}

TEST(Transport, RefusesNaN) {
  Matrix cost = random_cost(3, 3, 4);
  cost.at(1, 1) = std::nan("");
  EXPECT_THAT(exact_transport(cost).error().message, HasSubstr("not finite"));
  EXPECT_THAT(sinkhorn(cost, {}).error().message, HasSubstr("not finite"));
  EXPECT_THAT(sinkhorn(random_cost(3, 3, 4), {0, 10, 1e-9}).error().message, HasSubstr("lambda"));
}

TEST(Transport, SinkhornFindsAPermutationOfRandomNeurons) {
  const Matrix x = standardised(random_matrix(200, 16, 5));
  Matrix y(200, 16);
  for (std::int64_t i = 0; i < 200; ++i) {
    for (std::int64_t j = 0; j < 16; ++j) y.at(i, j * 5 % 16) = x.at(i, j);
  }
  const Matrix plan = *sinkhorn(distances(similarity_of(x, y)), {});
  double kept = 0;
  for (std::int64_t j = 0; j < 16; ++j) kept += plan.at(j, j * 5 % 16);
  EXPECT_GT(kept, 0.9998);
  EXPECT_GT(sharpness(plan), 0.9998);
}

TEST(ResidualPolicies, OfEqualMapsIsThatMap) {
  const auto make = [] { return std::make_shared<const Matrix>(permutation_matrix({2, 0, 1})); };
  const JoinMagnitudes magnitudes{{1, 2, 3}, {3, 2, 1}};
  const TransportMap r = make(), b = make();
  for (const ResidualPolicy policy :
       {ResidualPolicy::kMean, ResidualPolicy::kWeightedScalar, ResidualPolicy::kWeightedMatrix,
        ResidualPolicy::kNoResidual, ResidualPolicy::kOnlyResidual}) {
    EXPECT_EQ((*joined_map(r, b, policy, magnitudes))->data, r->data);
  }
  EXPECT_EQ(*joined_map(r, b, ResidualPolicy::kIdentity, magnitudes), nullptr);
}

TEST(ResidualPolicies, WeightByMagnitude) {
  const TransportMap r = std::make_shared<const Matrix>(identity_matrix(2));
  const TransportMap b = std::make_shared<const Matrix>(permutation_matrix({1, 0}));
  const auto scalar = *joined_map(r, b, ResidualPolicy::kWeightedScalar, {{3, 3}, {1, 1}});
  EXPECT_EQ(scalar->data, (std::vector<double>{0.75, 0.25, 0.25, 0.75}));
  const auto matrix = *joined_map(r, b, ResidualPolicy::kWeightedMatrix, {{1, 0}, {0, 1}});
  EXPECT_EQ(matrix->data, (std::vector<double>{1, 1, 0, 0}));
  const auto equal = *joined_map(r, b, ResidualPolicy::kWeightedScalar, {{2, 1}, {1, 2}});
  EXPECT_EQ(equal->data, (*joined_map(r, b, ResidualPolicy::kMean, {}))->data);
  const TransportMap narrow = std::make_shared<const Matrix>(3, 2);
  EXPECT_FALSE(joined_map(narrow, nullptr, ResidualPolicy::kMean, {}).has_value());
}

// A table of positions joins what was computed: its map is the branch's, that of the Linear the stream's.
TEST(ResidualPolicies, ATableJoinsTheStream) {
  const auto net = [](const std::string& w, const std::string& table, const std::string& head) {
    return test::model_from_text(
        "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2, 3] x) => (float[2, 2] y) "
        "<float[3, 3] w = {" +
        w + "}, float[2, 3] table = {" + table + "}, float[3, 2] head = {" + head +
        "}> { h = MatMul(x, w) s = Add(h, table) y = MatMul(s, head) }");
  };
  // Columns of w and rows of the head 0, 1, 2 -> 1, 2, 0; columns of the table 0, 1, 2 -> 2, 0, 1.
  const auto anchor = net("9, 0, 1, 0, 7, 0, 1, 0, 5", "1, 5, 9, 2, 6, 3", "1, 2, 3, 4, 5, 6");
  const auto copy = net("0, 1, 9, 7, 0, 0, 0, 5, 1", "9, 1, 5, 3, 2, 6", "3, 4, 5, 6, 1, 2");
  const std::vector<double> head = {1, 2, 3, 4, 5, 6};
  for (const auto policy : {ResidualPolicy::kOnlyResidual, ResidualPolicy::kNoResidual}) {
    TransportOptions options;
    options.exact = true;
    options.policy = policy;
    const auto moved = transport_model(*copy->clone(), *anchor->clone(), options);
    ASSERT_TRUE(moved.has_value()) << moved.error().message;
    const auto found = *to_doubles(*parameter(moved->model->graph().find("head")));
    EXPECT_EQ(found == head, policy == ResidualPolicy::kOnlyResidual);
    if (policy == ResidualPolicy::kNoResidual) {
      EXPECT_EQ(found, (std::vector<double>{5, 6, 1, 2, 3, 4}));
    }
  }
}

TransportOptions exact_options(const Dataset* data) {
  TransportOptions options;
  options.data = data;
  options.activations = data != nullptr;
  options.exact = true;
  return options;
}

TEST(Ot, APermutedCopyComesBack) {
  const auto anchor = transformer();
  const auto copy = disguised(*anchor, false);
  const Dataset data = *generate_dataset(*anchor, 3);
  for (const bool apart : {false, true}) {
    for (const auto scores : {TransportOptions::Scores::kSeparate, TransportOptions::Scores::kCommon}) {
      TransportOptions options = exact_options(&data);
      options.heads_apart = apart;
      options.scores = scores;
      const auto moved = transport_model(*copy, *anchor, options);
      ASSERT_TRUE(moved.has_value()) << moved.error().message;
      EXPECT_EQ(largest_difference(*moved->model, *anchor), 0) << apart;
    }
  }
}

TEST(Ot, EveryPolicyBringsAPermutedCopyBackButIdentity) {
  const auto anchor = transformer();
  const auto copy = disguised(*anchor, false);
  const Dataset data = *generate_dataset(*anchor, 3);
  for (const ResidualPolicy policy :
       {ResidualPolicy::kMean, ResidualPolicy::kWeightedScalar, ResidualPolicy::kWeightedMatrix,
        ResidualPolicy::kNoResidual, ResidualPolicy::kOnlyResidual}) {
    TransportOptions options = exact_options(&data);
    options.policy = policy;
    const auto moved = transport_model(*copy, *anchor, options);
    ASSERT_TRUE(moved.has_value()) << moved.error().message;
    EXPECT_EQ(largest_difference(*moved->model, *anchor), 0) << static_cast<int>(policy);
  }
}

TEST(Ot, ItselfStaysTheSameBits) {
  const auto anchor = transformer(), same = transformer();
  const Dataset data = *generate_dataset(*anchor, 3);
  for (const Dataset* features : {static_cast<const Dataset*>(nullptr), &data}) {
    for (const bool apart : {false, true}) {
      TransportOptions options = exact_options(features);
      options.heads_apart = apart;
      const auto moved = transport_model(*same, *anchor, options);
      ASSERT_TRUE(moved.has_value()) << moved.error().message;
      EXPECT_EQ(largest_difference(*moved->model, *anchor), 0);
    }
  }
}

TEST(Ot, JointMapsOfQueriesAndKeysOfItselfStay) {
  const auto anchor = transformer(), same = transformer();
  const Dataset data = *generate_dataset(*anchor, 3);
  TransportOptions options = exact_options(&data);
  options.scores = TransportOptions::Scores::kJoint;
  const auto moved = transport_model(*same, *anchor, options);
  ASSERT_TRUE(moved.has_value()) << moved.error().message;
  EXPECT_EQ(largest_difference(*moved->model, *anchor), 0);
}

// Every neuron of stream, heads and hidden layers twice, what they send halved: the same function.
TEST(Ot, AWidenedModelFoldsBack) {
  const auto narrow = transformer();
  const auto wide = test::widened(*narrow);
  ASSERT_EQ(difference(*narrow, *wide, Precision::kFloat64, 1e-6), "");
  const Dataset data = *generate_dataset(*narrow, 3);
  for (const bool exact : {true, false}) {
    TransportOptions options = exact_options(&data);
    options.exact = exact;
    options.lambda = 0.001;
    const auto moved = transport_model(*wide, *narrow, options);
    ASSERT_TRUE(moved.has_value()) << moved.error().message;
    EXPECT_LT(largest_difference(*moved->model, *narrow), exact ? 1e-6 : 2e-2);
    for (const MergeLayer& layer : moved->layers) EXPECT_NEAR(layer.cost, 0, exact ? 1e-5 : 0.05) << layer.name;
  }
}

TEST(Ot, WidthsThatDifferNeedMaps) {
  const auto narrow = transformer();
  const auto wide = test::widened(*narrow);
  TransportOptions options = exact_options(nullptr);
  options.policy = ResidualPolicy::kIdentity;
  EXPECT_THAT(transport_model(*wide, *narrow, options).error().message, HasSubstr("widths differ"));
}

TEST(Ot, AllMassInTheLimitOfLargeLambdaIsTheMeanNeuron) {
  const auto anchor = transformer(), other = transformer();
  const Dataset data = *generate_dataset(*anchor, 3);
  TransportOptions options = exact_options(&data);
  options.exact = false;
  options.lambda = 1e6;
  const auto moved = transport_model(*other, *anchor, options);
  ASSERT_TRUE(moved.has_value()) << moved.error().message;
  const auto up = *to_doubles(*parameter(moved->model->graph().find("up0")));
  for (std::size_t i = 1; i < up.size(); ++i) EXPECT_NEAR(up[i], up[0], 1e-5);
  for (const MergeLayer& layer : moved->layers) EXPECT_LT(layer.sharpness, 0.1) << layer.name;
}

}  // namespace
}  // namespace onnxfold::ot_test
