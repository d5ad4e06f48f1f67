#include "analysis/heal/channel_fit.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/rewrite_test.h"

namespace onnxfold::channel_fit_test {
namespace {

using test::model_from_text;

// h = a x + b channel by channel, y = relu(h).
std::unique_ptr<Model> affine(const std::string& a, const std::string& b) {
  return model_from_text(
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 5, 3] x) => (float[N, 5, 3] y) <float[3] a = {" + a +
      "}, float[3] b = {" + b + "}> { m = Mul(x, a) h = Add(m, b) y = Relu(h) }");
}

Dataset samples(int count) {
  Dataset data;
  for (int s = 0; s < count; ++s) {
    std::vector<double> numbers(15);
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::sin(1.7 * static_cast<double>(i) + 2.9 * s * s);
    Feeds feeds;
    feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {1, 5, 3}, numbers), Precision::kFloat32));
    data.batches.push_back(std::move(feeds));
    data.batch_sizes.push_back(1);
  }
  return data;
}

TEST(ChannelFit, FindsScaleAndShiftOfEveryChannel) {
  const auto original = affine("1, 2, -3", "0.5, 0, 1"), changed = affine("2, 2, -1", "0, 1, 1");
  const auto fits = fit_channels(*changed, *original, samples(16), {{"h", -1, true, true}});
  ASSERT_TRUE(fits) << fits.error().message;
  const ChannelFit& fit = fits->at("h");
  EXPECT_TRUE(fit.accepted) << fit.why;
  EXPECT_LT(fit.error_after, 0.03);  // scales are pulled toward 1 a little
  EXPECT_GT(fit.error_before, 0.1);
  const double scale[] = {0.5, 1, 3}, shift[] = {0.5, -1, -2};
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(fit.scale[c], scale[c], 0.04 * std::fabs(scale[c] - 1) + 1e-6);
    EXPECT_NEAR(fit.shift[c], shift[c], 0.08);
  }
}

TEST(ChannelFit, AShiftAloneLeavesTheScale) {
  const auto original = affine("1, 1, 1", "1, 2, 3"), changed = affine("1, 1, 1", "0, 0, 0");
  const auto fits = fit_channels(*changed, *original, samples(16), {{"h", -1, false, true}});
  ASSERT_TRUE(fits) << fits.error().message;
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_EQ(fits->at("h").scale[c], 1);
    EXPECT_NEAR(fits->at("h").shift[c], static_cast<double>(c) + 1, 1e-5);
  }
}

// One row in five is a hundred times the others, and so is its error: what is added to all must not come from it.
TEST(ChannelFit, FewLargeRowsDoNotDecide) {
  Dataset data = samples(16);
  for (Feeds& feeds : data.batches) {
    std::vector<double> numbers = *to_doubles(feeds["x"].array);
    for (std::size_t c = 0; c < 3; ++c) numbers[6 + c] = 100;
    feeds["x"] = Datum(*to_array(*from_doubles(DType::kFloat32, {1, 5, 3}, numbers), Precision::kFloat32));
  }
  const auto original = affine("1, 1, 1", "0, 0, 0"), changed = affine("1.02, 1.02, 1.02", "0, 0, 0");
  const auto fits = fit_channels(*changed, *original, data, {{"h", -1, false, true}});
  ASSERT_TRUE(fits) << fits.error().message;
  for (const double shift : fits->at("h").shift) EXPECT_LT(std::fabs(shift), 0.02);  // the plain mean: -0.4
}

// The changed model is off by 1, and by 100 at the position that the mask leaves out.
TEST(ChannelFit, PaddingDoesNotCount) {
  const auto model = [](const std::string& nodes) {
    return model_from_text(
        "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 5, 3] x, int64[N, 5] attention_mask) => "
        "(float[N, 5, 3] y) <float[3] s = {1, 1, 1}, float[1] far = {100}, int64[1] two = {2}> { "
        "b = Cast<to = 9>(attention_mask) k = Unsqueeze(b, two) o = Where(k, s, far) " +
        nodes + " y = Relu(h) }");
  };
  Dataset data = samples(16);
  for (Feeds& feeds : data.batches) {
    feeds["attention_mask"] = Datum(*to_array(Tensor::of<std::int64_t>({1, 5}, {1, 1, 1, 1, 0}), Precision::kFloat32));
  }
  const auto original = model("h = Add(x, far)"), changed = model("z = Add(x, far) h = Sub(z, o)");
  const auto fits = fit_channels(*changed, *original, data, {{"h", -1, false, true}});
  ASSERT_TRUE(fits) << fits.error().message;
  for (const double shift : fits->at("h").shift) EXPECT_NEAR(shift, 1, 1e-4);
}

TEST(ChannelFit, LaterSitesSeeWhatEarlierOnesMoved) {
  const auto original = affine("1, 1, 1", "1, 2, 3"), changed = affine("2, 1, 1", "1, 2, 3");
  const auto fits = fit_channels(*changed, *original, samples(16), {{"m", -1, true, true}, {"h", -1, true, true}});
  ASSERT_TRUE(fits) << fits.error().message;
  EXPECT_TRUE(fits->at("m").accepted);
  EXPECT_NEAR(fits->at("m").scale[0], 0.5, 0.01);
  EXPECT_LT(fits->at("h").error_before, 0.01);  // little is left to mend
}

TEST(ChannelFit, WhatIsRightAlreadyIsLeftAlone) {
  const auto model = affine("1, 2, -3", "0.5, 0, 1");
  const auto fits = fit_channels(*model, *model->clone(), samples(16), {{"h", -1, true, true}});
  ASSERT_TRUE(fits) << fits.error().message;
  EXPECT_FALSE(fits->at("h").accepted);
}

}  // namespace
}  // namespace onnxfold::channel_fit_test
