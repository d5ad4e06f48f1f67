// Networks as exporters and optimizers write them (export_models.py made exports.npz): one row a network, the same
// for every spelling of it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "analysis/structure/blocks.h"
#include "formats/npz/npz.h"
#include "formats/onnx/onnx_file.h"
#include "formats/onnx/schema.h"
#include "ir/match.h"
#include "tests/support/paths.h"

namespace onnxfold::exports_test {
namespace {

struct Row {
  const char* network;
  std::vector<std::string> blocks;  // "2 x kind width: layer, layer", in order
};

// Attention: heads/key-value heads x head width. Feed-forward: hidden width and activation.
const std::vector<Row>& rows() {
  static const std::vector<Row> kRows = {
      {"albert", {"2 x post-norm 16: attention 4/4x4, 40 GELU (tanh)"}},
      {"bart",
       {"2 x post-norm 16: attention 4/4x4, 40 GELU",
        "2 x post-norm 16: attention 4/4x4 causal, cross attention 4/4x4, 40 GELU"}},
      {"bert", {"2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"bloom", {"2 x pre-norm 16: attention 4/4x4 causal, 64 GELU (tanh)"}},
      {"clip_text", {"2 x pre-norm 16: attention 4/4x4 causal, 40 quick GELU"}},
      {"clip_vision", {"2 x pre-norm 16: attention 4/4x4, 40 quick GELU"}},
      {"deberta", {"2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"deit_timm", {"2 x pre-norm 16: attention 4/4x4, 40 GELU"}},
      {"dinov2", {"2 x pre-norm 16: attention 4/4x4 scaled, 32 GELU scaled"}},
      {"distilbert", {"2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"dit", {"2 x pre-norm 16: attention 4/4x4 modulated, 40 GELU (tanh) modulated"}},
      {"electra", {"2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"falcon", {"2 x parallel 16: attention 4/1x4 rotary causal, 40 GELU"}},
      {"gemma", {"2 x pre-norm 16: attention 4/2x8 rotary causal, gated 40 GELU (tanh)"}},
      {"gemma2", {"2 x sandwich-norm 16: attention 4/2x8 rotary causal, gated 40 GELU (tanh)"}},
      {"gemma3", {"2 x sandwich-norm 16: attention 4/2x8 rotary causal, gated 40 GELU (tanh)"}},
      {"gpt2", {"2 x pre-norm 16: attention 4/4x4 causal, 40 GELU (tanh)"}},
      {"gpt2_cached", {"2 x pre-norm 16: attention 4/4x4 causal, 40 GELU (tanh)"}},
      {"gpt_neox", {"2 x parallel 16: attention 4/4x4 rotary causal, 40 GELU"}},
      {"gptj", {"2 x parallel 16: attention 4/4x4 rotary causal, 40 GELU (tanh)"}},
      {"granite", {"2 x pre-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"llama", {"2 x pre-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"llama_cached", {"2 x pre-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"llama_multi_query", {"2 x pre-norm 16: attention 4/1x4 rotary causal, gated 40 SiLU"}},
      {"mistral", {"2 x pre-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"mixtral", {"2 x pre-norm 16: attention 4/2x4 rotary causal, 2 of 4 experts"}},
      {"modernbert", {"2 x pre-norm 16: attention 4/4x4 rotary, gated 40 GELU"}},
      {"mpnet", {"2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"olmo2", {"2 x branch-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"opt", {"2 x pre-norm 16: attention 4/4x4 causal, 40 ReLU"}},
      {"phi", {"2 x parallel 16: attention 4/4x4 rotary causal, 40 GELU (tanh)"}},
      {"phi3", {"2 x pre-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"qwen2", {"2 x pre-norm 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"qwen2_moe", {"2 x pre-norm 16: attention 4/2x4 rotary causal, 2 of 4 experts"}},
      {"qwen3", {"2 x pre-norm 16: attention 4/2x8 rotary causal, gated 40 SiLU"}},
      {"qwen3_cached", {"2 x pre-norm 16: attention 4/2x8 rotary causal, gated 40 SiLU"}},
      {"resnet", {"1 x convolution 64: convolution"}},
      {"roberta", {"2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"swin", {"2 x pre-norm 8: attention 2/2x4, 16 GELU", "2 x pre-norm 16: attention 4/4x4, 32 GELU"}},
      {"swin_timm", {"2 x pre-norm 8: attention 2/2x4, 16 GELU", "2 x pre-norm 16: attention 4/4x4, 32 GELU"}},
      {"t5_decoder", {"2 x pre-norm 16: attention 4/4x4 causal, cross attention 4/4x4, 40 ReLU"}},
      {"t5_encoder", {"2 x pre-norm 16: attention 4/4x4, 40 ReLU"}},
      {"t5_gated_encoder", {"2 x pre-norm 16: attention 4/4x8, gated 40 GELU (tanh)"}},
      {"torch_encoder", {"2 x pre-norm 16: attention 4/4x4, 40 GELU"}},
      {"vit", {"2 x pre-norm 16: attention 4/4x4, 40 GELU"}},
      {"beit", {"2 x pre-norm 16: attention 4/4x4 scaled, 40 GELU scaled"}},
      {"dinov2_giant", {"2 x pre-norm 16: attention 4/4x4 scaled, gated 24 SiLU scaled"}},
      {"mobilenet",
       {"1 x convolution 16: convolution", "4 x convolution 24: convolution", "2 x convolution 48: convolution"}},
      {"segformer", {"2 x pre-norm 8: attention 2/2x4, convolution", "2 x pre-norm 16: attention 4/4x4, convolution"}},
      {"stablelm", {"2 x parallel 16: attention 4/2x4 rotary causal, gated 40 SiLU"}},
      {"wav2vec2", {"1 x convolution 16: convolution", "2 x post-norm 16: attention 4/4x4, 40 GELU"}},
      {"whisper_decoder", {"2 x pre-norm 16: attention 4/4x4 causal, cross attention 4/4x4, 40 GELU"}},
      {"whisper_encoder", {"2 x pre-norm 16: attention 4/4x4, 40 GELU"}},
  };
  return kRows;
}

std::string describe(const Sublayer& sublayer) {
  std::string text;
  if (sublayer.attention) {
    const Attention& a = *sublayer.attention;
    text = fmt::format("{}attention {}/{}x{}{}{}", sublayer.cross ? "cross " : "", a.heads, a.kv_heads, a.head_width,
                       a.rotary ? " rotary" : "", a.causal ? " causal" : "");
  } else if (sublayer.feed_forward) {
    const FeedForward& f = *sublayer.feed_forward;
    text = fmt::format("{}{} {}", f.gated() ? "gated " : "", f.hidden, f.activation ? name(f.activation->kind) : "?");
  } else if (sublayer.mixture) {
    text = fmt::format("{} of {} experts", sublayer.mixture->chosen, sublayer.mixture->experts);
  } else {
    text = name(sublayer.kind);
  }
  if (sublayer.layer_scale != nullptr && constant(sublayer.layer_scale)->size() > 1) text += " scaled";
  if (sublayer.modulated) text += " modulated";
  return text;
}

std::string describe(const Block& block) {
  std::vector<std::string> layers;
  for (const Sublayer& sublayer : block.sublayers) layers.push_back(describe(sublayer));
  std::string text = fmt::format("{} {}:", name(block.kind), block.width);
  for (const std::string& layer : layers) text += (text.back() == ':' ? " " : ", ") + layer;
  return text;
}

std::vector<std::string> describe(const BlockView& view) {
  std::vector<std::pair<std::string, int>> runs;
  for (const Block& block : view.blocks) {
    const std::string text = describe(block);
    if (runs.empty() || runs.back().first != text) runs.emplace_back(text, 0);
    ++runs.back().second;
  }
  std::vector<std::string> lines;
  for (const auto& [text, count] : runs) lines.push_back(fmt::format("{} x {}", count, text));
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

const std::map<std::string, Tensor>& models() {
  static const auto kModels = load_npz(test::source_path("tests/analysis/structure/exports.npz"));
  static const std::map<std::string, Tensor> kNone;
  return kModels ? *kModels : kNone;
}

std::string network_of(const std::string& name) { return name.substr(0, name.find('.')); }

class Exports : public ::testing::TestWithParam<Row> {};

TEST_P(Exports, BlocksHeadsAndWidthsOfEverySpelling) {
  int seen = 0;
  for (const auto& [name, tensor] : models()) {
    if (network_of(name) != GetParam().network) continue;
    ++seen;
    const auto bytes = tensor.bytes();
    ASSERT_TRUE(bytes);
    const auto model = parse_model(bytes->span());
    ASSERT_TRUE(model) << name;
    ASSERT_TRUE(infer_shapes(**model, false)) << name;
    const BlockView view = find_blocks((*model)->graph());
    std::string notes;
    for (const StructureNote& note : view.notes) notes += note.node + ": " + note.reason + "\n";
    EXPECT_EQ(joined(describe(view)), joined(GetParam().blocks)) << name << "\n" << notes;
  }
  EXPECT_GT(seen, 0);
}

INSTANTIATE_TEST_SUITE_P(Networks, Exports, ::testing::ValuesIn(rows()),
                         [](const auto& row) { return std::string(row.param.network); });

TEST(ExportedModels, EachHasItsRow) {
  for (const auto& [name, tensor] : models()) {
    const bool known = std::any_of(rows().begin(), rows().end(),
                                   [network = network_of(name)](const Row& row) { return row.network == network; });
    EXPECT_TRUE(known) << name;
  }
}

}  // namespace
}  // namespace onnxfold::exports_test
