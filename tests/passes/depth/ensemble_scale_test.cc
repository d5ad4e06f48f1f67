#include <gmock/gmock.h>

#include "analysis/compare/damage.h"
#include "analysis/depth/stream_paths.h"
#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::ensemble_scale_test {
namespace {

using test::model_from_text;
using testing::HasSubstr;

// Two pre-norm feed-forward blocks over a stream of 8 channels; their second Linears times `factor`.
std::string blocks(const std::string& factor0, const std::string& factor1, const std::string& tail = "y = Mul(n2, g)") {
  return R"(<ir_version: 8, opset_import: ["" : 17]> g (float[N, T, 8] x) => (float[N, T, 8] y)
    <float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}, float[8, 16] up0 = {}, float[16, 8] down0 = {}, float[8, 16] up1 = {},
     float[16, 8] down1 = {}, float[8] c0 = {)" +
         factor0 + "}, float[8] c1 = {" + factor1 + R"(}> {
      n0 = LayerNormalization(x, g) u0 = MatMul(n0, up0) h0 = Relu(u0) d0 = MatMul(h0, down0) f0 = Mul(d0, c0)
      s0 = Add(x, f0)
      n1 = LayerNormalization(s0, g) u1 = MatMul(n1, up1) h1 = Relu(u1) d1 = MatMul(h1, down1) f1 = Mul(d1, c1)
      s1 = Add(s0, f1) n2 = LayerNormalization(s1, g) )" +
         tail + " }";
}

const std::string kOnes = "1, 1, 1, 1, 1, 1, 1, 1";

TEST(EnsembleScale, PathsAddUpToTheStream) {
  const auto model = model_from_text(blocks(kOnes, kOnes));
  const auto paths = find_stream_paths(model->graph());
  ASSERT_TRUE(paths);
  ASSERT_EQ(paths->paths.size(), 3U);
  EXPECT_EQ(paths->paths[0].value, "x");
  EXPECT_EQ(paths->paths[1].value, "f0");
  EXPECT_EQ(paths->last, "s1");
}

// The student adds half as much in its last block: the scale is 2, and the head sees what it saw.
TEST(EnsembleScale, FindsTheScaleThatIsMissing) {
  const auto teacher = model_from_text(blocks(kOnes, kOnes)),
             student = model_from_text(blocks(kOnes, "0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5"));
  const Dataset data = test::normal_data(16, 8, 8);
  for (const bool by_channel : {true, false}) {
    const auto scales = fit_path_scales(*student, *teacher, data, by_channel);
    ASSERT_TRUE(scales) << scales.error().message;
    EXPECT_TRUE(scales->accepted);
    EXPECT_LT(scales->error_after, 0.05 * scales->error_before);
    for (const double scale : scales->scale[2]) EXPECT_NEAR(scale, 2, 0.05);
    const auto changed = student->clone();
    EXPECT_EQ(*put_path_scales(changed->graph(), *scales), 3U);
    ASSERT_TRUE(verify(*changed));
    const auto meter = DamageMeter::create(*teacher, data);
    EXPECT_LT(meter->measure(*changed)->value, 0.05 * meter->measure(*student)->value);
  }
}

// One scale a channel can be what one scale a path cannot.
TEST(EnsembleScale, ChannelsHaveTheirOwn) {
  const auto teacher = model_from_text(blocks(kOnes, kOnes)),
             student = model_from_text(blocks(kOnes, "0.5, 2, 0.5, 2, 0.5, 2, 0.5, 2"));
  const Dataset data = test::normal_data(16, 8, 8);
  const auto each = fit_path_scales(*student, *teacher, data, true),
             all = fit_path_scales(*student, *teacher, data, false);
  EXPECT_LT(each->error_after, 0.1 * each->error_before);
  EXPECT_GT(all->error_after, 0.5 * all->error_before);
  EXPECT_LE(all->error_after, all->error_before);
}

TEST(EnsembleScale, OfTheModelItselfAllScalesAreOne) {
  const auto model = model_from_text(blocks(kOnes, kOnes));
  const std::string before = model->graph().name;
  const auto scales = fit_path_scales(*model, *model, test::normal_data(16, 8, 8), true);
  ASSERT_TRUE(scales);
  EXPECT_FALSE(scales->accepted);
  for (const auto& path : scales->scale) {
    for (const double scale : path) EXPECT_EQ(scale, 1);
  }
  const std::size_t nodes = model->graph().nodes().size();
  EXPECT_EQ(*put_path_scales(model->graph(), *scales), 0U);  // the original, bit for bit
  EXPECT_EQ(model->graph().nodes().size(), nodes);
}

// Scales of 0 behind a block are an exit there.
TEST(EnsembleScale, ScalesOfZeroAreAnExit) {
  const auto model = model_from_text(blocks(kOnes, kOnes)),
             exit = model_from_text(blocks(kOnes, "0, 0, 0, 0, 0, 0, 0, 0"));
  PathScales scales{*find_stream_paths(model->graph()), {}, 0, 0, true};
  scales.scale = {std::vector<double>(8, 1), std::vector<double>(8, 1), std::vector<double>(8, 0)};
  const Dataset data = test::normal_data(4, 6, 8);
  const auto meter = DamageMeter::create(*exit, data);
  EXPECT_EQ(*put_path_scales(model->graph(), scales), 1U);
  EXPECT_LT(meter->measure(*model)->value, 1e-6);
}

// Post-norm: the stream is no sum.
TEST(EnsembleScale, NormsOnTheStreamAreRefused) {
  const auto model =
      model_from_text(R"(<ir_version: 8, opset_import: ["" : 17]> g (float[N, T, 8] x) => (float[N, T, 8] y)
    <float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}, float[8, 16] up0 = {}, float[16, 8] down0 = {}, float[8, 16] up1 = {},
     float[16, 8] down1 = {}> {
      u0 = MatMul(x, up0) h0 = Relu(u0) d0 = MatMul(h0, down0) s0 = Add(x, d0) n0 = LayerNormalization(s0, g)
      u1 = MatMul(n0, up1) h1 = Relu(u1) d1 = MatMul(h1, down1) s1 = Add(n0, d1) y = LayerNormalization(s1, g) })");
  const auto paths = find_stream_paths(model->graph());
  ASSERT_FALSE(paths);
  EXPECT_THAT(paths.error().message, HasSubstr("no plain sum"));
}

TEST(EnsembleScale, StreamsOfOtherWidthsAreRefused) {
  const auto student = model_from_text(blocks(kOnes, kOnes));
  const auto teacher = model_from_text(
      R"(<ir_version: 8, opset_import: ["" : 17]> g (float[N, T, 8] x) => (float[N, T, 4] y)
      <float[8, 4] in = {}, float[4] g = {1, 1, 1, 1}, float[4, 16] up0 = {}, float[16, 4] down0 = {}> {
      e = MatMul(x, in) n0 = LayerNormalization(e, g) u0 = MatMul(n0, up0) h0 = Relu(u0) d0 = MatMul(h0, down0)
      s0 = Add(e, d0) y = LayerNormalization(s0, g) })");
  EXPECT_FALSE(fit_path_scales(*student, *teacher, test::normal_data(4, 6, 8), true));
}

TEST(EnsembleScale, WithoutALossyPassBeforeThereIsNothingToRepair) {
  const auto model = model_from_text(blocks(kOnes, kOnes));
  std::vector<Remark> remarks;
  const auto changed = test::run_on_data("ensemble-scale", *model, test::normal_data(4, 6, 8), {}, &remarks);
  ASSERT_TRUE(changed);
  EXPECT_FALSE(*changed);
  ASSERT_EQ(remarks.size(), 1U);
  EXPECT_THAT(remarks[0].reason, HasSubstr("nothing to repair"));
}

}  // namespace
}  // namespace onnxfold::ensemble_scale_test
