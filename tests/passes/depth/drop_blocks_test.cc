#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>

#include "analysis/compare/damage.h"
#include "analysis/structure/blocks.h"
#include "tests/passes/depth/run_on_data.h"

namespace onnxfold::drop_blocks_test {
namespace {

using test::model_from_text;
using testing::HasSubstr;

// Pre-norm feed-forward blocks over a stream of 8 channels, hidden width 16; `scale` shrinks what block i adds.
std::string blocks(int count, const std::string& extra_outputs = "") {
  std::string constants = "float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}, float[1] small = {0.1}";
  std::string nodes, stream = "x";
  for (int i = 0; i < count; ++i) {
    const std::string n = std::to_string(i);
    constants += ", float[8, 16] up" + n + " = {}, float[16, 8] down" + n + " = {}";
    nodes += "n" + n + " = LayerNormalization(" + stream + ", g) u" + n + " = MatMul(n" + n + ", up" + n + ") h" + n +
             " = Relu(u" + n + ") f" + n + " = MatMul(h" + n + ", down" + n + ") s" + n + " = Add(" + stream + ", f" +
             n + ") ";
    stream = "s" + n;
  }
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, T, 8] x) => (float[N, T, 8] y" + extra_outputs +
         ") <" + constants + "> { " + nodes + "y = LayerNormalization(" + stream + ", g) }";
}

double error_against(const Model& original, const Model& changed, const Dataset& data) {
  const auto meter = DamageMeter::create(original, data);
  return meter->measure(changed)->value;
}

TEST(DropBlocks, NamedBlocksGoAndNothingElse) {
  const auto model = model_from_text(blocks(4));
  const auto changed = test::run_pass("drop-blocks", *model, {{"blocks", "2;1"}});
  ASSERT_TRUE(changed && *changed);
  const BlockView view = find_blocks(model->graph());
  ASSERT_EQ(view.blocks.size(), 2U);
  EXPECT_EQ(view.blocks[1].input->name(), "s0");
  EXPECT_EQ(view.blocks[1].output->name(), "s3");
  EXPECT_EQ(model->graph().find("up1"), nullptr);
  EXPECT_NE(model->graph().find("up3"), nullptr);
}

TEST(DropBlocks, NothingAskedForNothingChanged) { test::expect_unchanged("drop-blocks", blocks(3)); }

TEST(DropBlocks, AGraphWithoutAStreamIsLeftAlone) {
  test::expect_unchanged("drop-blocks",
                         R"(<ir_version: 8, opset_import: ["" : 17]> g (float[2, 4] x) => (float[2, 4] y)
                         <float[4, 4] w = {}> { y = MatMul(x, w) })",
                         {{"count", "1"}});
}

TEST(DropBlocks, UnknownNumbersAreNamed) {
  test::expect_error("drop-blocks", blocks(3), "'7' is none of the blocks that can go: 0;1;2", {{"blocks", "7"}});
}

TEST(DropBlocks, ChoosingNeedsData) {
  test::expect_error("drop-blocks", blocks(3), "choosing blocks needs data", {{"count", "1"}});
}

TEST(DropBlocks, OutputsThatOnlyTheBlockMadeLeaveTheSignature) {
  const auto model = model_from_text(blocks(3, ", float[N, T, 16] h1"));
  std::vector<Remark> remarks;
  ASSERT_TRUE(test::run_pass("drop-blocks", *model, {{"blocks", "1"}}, &remarks));
  EXPECT_EQ(model->graph().outputs().size(), 1U);
  EXPECT_TRUE(std::any_of(remarks.begin(), remarks.end(), [](const Remark& remark) {
    return remark.reason.find("outputs h1 are gone") != std::string::npos;
  }));
}

TEST(DropBlocks, AStreamThatIsAnOutputKeepsItsName) {
  const auto model = model_from_text(blocks(3, ", float[N, T, 8] s1"));
  ASSERT_TRUE(test::run_pass("drop-blocks", *model, {{"blocks", "1"}}));
  ASSERT_EQ(model->graph().outputs().size(), 2U);
  EXPECT_EQ(model->graph().outputs()[1]->name(), "s1");
}

// Block 2 adds nothing: every way to choose must find it.
TEST(DropBlocks, EveryChoiceFindsTheBlockThatAddsNothing) {
  for (const char* choice : {"loss", "kl", "macro", "influence", "window"}) {
    const auto model = model_from_text(blocks(5));
    Value* down = model->graph().find("down2");
    Value* zeros =
        model->graph().add_initializer("zeros", *from_doubles(DType::kFloat32, {16, 8}, std::vector<double>(128)));
    model->graph().replace_all_uses(*down, *zeros);
    const auto original = model->clone();
    const Dataset data = test::normal_data(4, 6, 8);
    const auto changed =
        test::run_on_data("drop-blocks", *model, data, {{"count", "1"}, {"choice", choice}, {"protect-first", "1"}});
    ASSERT_TRUE(changed && *changed) << choice;
    EXPECT_EQ(model->graph().find("up2"), nullptr) << choice;
    EXPECT_LT(error_against(*original, *model, data), 1e-6) << choice;
  }
}

TEST(DropBlocks, ProtectedBlocksStay) {
  const auto model = model_from_text(blocks(3));
  const auto changed = test::run_on_data("drop-blocks", *model, test::normal_data(4, 6, 8),
                                         {{"count", "2"}, {"protect-first", "1"}, {"protect-last", "1"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_NE(model->graph().find("up0"), nullptr);
  EXPECT_EQ(model->graph().find("up1"), nullptr);
  EXPECT_NE(model->graph().find("up2"), nullptr);
}

TEST(DropBlocks, HealingLowersTheError) {
  const Dataset data = test::normal_data(16, 8, 8);
  double plain = 0;
  for (const char* heal : {"none", "ridge-down", "ridge-stream", "replaceme", "linear-patch", "ensemble-scale"}) {
    const auto model = model_from_text(blocks(4));
    const auto original = model->clone();
    const auto changed = test::run_on_data("drop-blocks", *model, data, {{"blocks", "1"}, {"heal", heal}});
    ASSERT_TRUE(changed && *changed) << heal << (changed ? "" : changed.error().message);
    const double error = error_against(*original, *model, data);
    if (std::string(heal) == "none") plain = error;
    EXPECT_LE(error, plain) << heal;
    const bool ridge = std::string(heal).starts_with("ridge");
    EXPECT_LT(error, ridge ? 0.9 * plain : 1.0001 * plain) << heal;
  }
}

// Attention and feed-forward layers can go alone; here every block is a feed-forward layer.
TEST(DropBlocks, FeedForwardAlone) {
  const auto model = model_from_text(blocks(3));
  const auto changed = test::run_pass("drop-blocks", *model, {{"blocks", "1"}, {"what", "feed-forward"}});
  ASSERT_TRUE(changed && *changed);
  EXPECT_EQ(find_blocks(model->graph()).blocks.size(), 2U);
  test::expect_unchanged("drop-blocks", blocks(3), {{"count", "1"}, {"what", "attention"}});
}

// Hidden states [N, T, 4] of tokens up to 9: no distribution over tokens, hence no perplexity.
TEST(DropBlocks, HiddenStatesOfTokensAreNoScores) {
  const auto damage = [](const char* top) {
    const auto model = model_from_text(
        std::string(R"(<ir_version: 8, opset_import: ["" : 17]> g (int64[N, T] ids) => (float[N, T, 4] y)
        <float[10, 4] table = {}> { y = Gather(table, ids) })"));
    Dataset data;
    const std::vector<double> ids = {0, 1, 2, 3, 2, std::strtod(top, nullptr)};
    data.batches.push_back({{"ids", Datum(*to_array(*from_doubles(DType::kInt64, {2, 3}, ids), Precision::kFloat32))}});
    data.batch_sizes = {2};
    return DamageMeter::create(*model, data)->kind();
  };
  EXPECT_EQ(damage("3"), DamageMeter::Kind::kLoss);
  EXPECT_EQ(damage("9"), DamageMeter::Kind::kError);
}

}  // namespace
}  // namespace onnxfold::drop_blocks_test
