#include "converter/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "analysis/structure/correspondence.h"
#include "exec/array.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::finite_test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::unique_ptr<Model> with_weight(DType dtype, const std::vector<double>& numbers) {
  auto model = test::model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) })");
  replace_constant(*model->graph().find("w"),
                   *from_doubles(dtype, {static_cast<std::int64_t>(numbers.size())}, numbers));
  return model;
}

TEST(Finite, WeightsAreNamedWithTheElement) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kFloat64}) {
    EXPECT_TRUE(check_finite_weights(with_weight(dtype, {1, 2})->graph()));
    const Status nan = check_finite_weights(with_weight(dtype, {1, NAN})->graph());
    ASSERT_FALSE(nan);
    EXPECT_EQ(nan.error().message, "weight 'w' holds NaN at element 1");
    const Status infinity = check_finite_weights(with_weight(dtype, {kInfinity, 2})->graph());
    ASSERT_FALSE(infinity);
    EXPECT_EQ(infinity.error().message, "weight 'w' holds infinity at element 0");
  }
}

TEST(Finite, MasksAreNoWeights) {
  EXPECT_TRUE(check_finite_weights(with_weight(DType::kFloat32, {0, -kInfinity})->graph()));
}

TEST(Finite, InputsAreNamedWithTheBatch) {
  Dataset data;
  for (const double last : {1.0, static_cast<double>(NAN)}) {
    Feeds feeds;
    const std::vector<double> pair = {0, last}, id = {3};
    feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {2}, pair), Precision::kFloat32));
    feeds["ids"] = Datum(*to_array(*from_doubles(DType::kInt64, {1}, id), Precision::kFloat32));
    data.batches.push_back(feeds);
  }
  const Status found = check_finite_inputs(data);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().message, "input 'x' holds NaN at element 1 of batch 2");
  data.batches.pop_back();
  EXPECT_TRUE(check_finite_inputs(data));
}

}  // namespace
}  // namespace onnxfold::finite_test
