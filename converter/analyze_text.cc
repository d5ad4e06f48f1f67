#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "converter/analyze.h"

namespace onnxfold {
namespace {

std::string optional_number(const std::optional<double>& number, const char* form = "{:.4f}") {
  return number ? fmt::format(fmt::runtime(form), *number) : "-";
}

double largest_later_effect(const BlockDepth& block, std::size_t index) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t l = index + 1; l < block.skip_effect.size(); ++l, ++count) sum += block.skip_effect[l];
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

std::string sublayer_text(const BlockDepth& block) {
  std::string text;
  for (const Contribution& sublayer : block.sublayers) {
    text +=
        fmt::format("{}{} {:.2f} ({:+.2f})", text.empty() ? "" : ", ", sublayer.kind, sublayer.mean, sublayer.cosine);
  }
  return text;
}

std::string table(const DepthReport& depth) {
  std::string text = fmt::format("{:>5}  {:>9}  {:>7}  {:>9}  {:>9}  {:>9}  {:>7}  {:>7}  {:>8}  {:>6}  {}\n", "block",
                                 "adds", "cosine", "influence", "damage", depth.task_kind.empty() ? "" : "task",
                                 "macro", "later", "parallel", "lens", "adds by sublayer (cosine with the stream)");
  for (std::size_t i = 0; i < depth.blocks.size(); ++i) {
    const BlockDepth& block = depth.blocks[i];
    const std::optional<double> damage =
        block.without ? std::optional(block.without->value - depth.original.value) : std::nullopt;
    const std::optional<double> task =
        block.without && !depth.task_kind.empty() ? std::optional(block.without->task) : std::nullopt;
    text += fmt::format("{:>5}  {:>9.3f}  {:>+7.3f}  {:>9.4f}  {:>9}  {:>9}  {:>7}  {:>7.3f}  {:>8}  {:>6}  {}\n", i,
                        block.block.mean, block.block.cosine, 1 - block.cosine, optional_number(damage, "{:+.4f}"),
                        optional_number(task), block.without ? fmt::format("{:.4f}", block.macro) : "-",
                        largest_later_effect(block, i), optional_number(block.parallel),
                        optional_number(block.lens_top1, "{:.2f}"), sublayer_text(block));
  }
  return text;
}

std::string legend(const DepthReport& depth) {
  return fmt::format(
      "  adds       what the block adds, relative to the stream; cosine: below 0 it erases, above 0 it amplifies\n"
      "  influence  1 - cosine of its input and output: a shortlist (drop-blocks choice=influence)\n"
      "  damage     rise of the {} without it: the least go first (drop-blocks choice=loss); macro: of the final "
      "state\n"
      "  later      how far what later blocks add changes without it: small ones can go together\n"
      "  parallel   error when it and the next read the same input: below about 0.05 they could run side by side\n"
      "  lens       rows where the head on the stream behind it already gives the model's answer\n",
      depth.damage_kind);
}

std::string least_damage(const DepthReport& depth) {
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t i = 0; i < depth.blocks.size(); ++i) {
    if (depth.blocks[i].without) order.emplace_back(depth.blocks[i].without->value, i);
  }
  std::sort(order.begin(), order.end());
  std::string text;
  for (std::size_t i = 0; i < order.size() && i < std::max<std::size_t>(1, order.size() / 4); ++i) {
    text += fmt::format("{}{}", text.empty() ? "" : ";", order[i].second);
  }
  return text;
}

std::string suggestions(const DepthReport& depth) {
  std::string text;
  const std::string least = least_damage(depth);
  if (!least.empty()) {
    text += fmt::format(
        "remove      a quarter of the blocks, the least needed alone: --pass 'drop-blocks:blocks={}';\n"
        "            chosen one after the other: --pass 'drop-blocks:count={}'\n",
        least, std::count(least.begin(), least.end(), ';') + 1);
  }
  for (const auto& window : depth.windows) {
    if (window.count * 4 < depth.blocks.size() || window.count == 1) continue;
    text +=
        fmt::format("window      blocks {} to {} turn the stream by {:.3f} pi in all: the straightest {} neighbours\n",
                    window.first, window.first + window.count - 1, window.arc, window.count);
    break;
  }
  std::string pairs;
  for (std::size_t i = 0; i < depth.blocks.size(); ++i) {
    if (depth.blocks[i].parallel && *depth.blocks[i].parallel < 0.05) {
      pairs += fmt::format("{}{}+{}", pairs.empty() ? "" : ", ", i, i + 1);
    }
  }
  if (!pairs.empty()) text += fmt::format("parallel    pairs that hardly notice reading the same input: {}\n", pairs);
  if (depth.exit_behind && *depth.exit_behind + 1 < depth.blocks.size()) {
    text += fmt::format("exit        behind block {} the head gives the model's answer in 95 % of the rows\n",
                        *depth.exit_behind);
  }
  if (depth.r2.size() >= 2) {
    double best = 0;
    std::size_t from = 0;
    for (std::size_t i = 1; i + 2 < depth.r2.size(); ++i) {
      if (depth.r2[i][i + 2] > best) {
        best = depth.r2[i][i + 2];
        from = i;
      }
    }
    if (best > 0) {
      text += fmt::format(
          "linear      a linear map explains {:.1f} % of the stream across blocks {} and {} (heal=replaceme)\n",
          100 * best, from, from + 1);
    }
  }
  return text;
}

}  // namespace

namespace {

std::string depth_text(const DepthReport& depth) {
  std::string text = fmt::format("{} {:.4f}", depth.damage_kind, depth.original.value);
  if (!depth.task_kind.empty()) text += fmt::format(", {} {:.4f}", depth.task_kind, depth.original.task);
  return text + "\n" + table(depth) + legend(depth) + suggestions(depth);
}

std::string table_text(const PartTable& table) {
  std::size_t widest = 8;
  for (const PartRow& row : table.rows) widest = std::max(widest, row.part.size());
  std::string text = fmt::format("\n{:<{}}", table.name, widest);
  if (!table.rows.empty()) {
    for (const auto& [name, number] : table.rows.front().numbers) text += fmt::format("{:>13}", name);
  }
  text += "\n";
  for (const PartRow& row : table.rows) {
    text += fmt::format("{:<{}}", row.part, widest);
    for (const auto& [name, number] : row.numbers)
      text += fmt::format("{:>13}", number ? fmt::format("{:.4g}", *number) : "-");
    text += row.use.empty() ? "\n" : "  " + row.use + "\n";
  }
  for (const std::string& line : table.legend) text += "  " + line + "\n";
  for (const StructureNote& note : table.notes) text += fmt::format("note        {}: {}\n", note.node, note.reason);
  return text;
}

}  // namespace

std::string analysis_text(const Analysis& analysis) {
  std::string text = fmt::format("{}, {}\n", analysis.path, analysis.data_origin);
  if (analysis.depth) text += depth_text(*analysis.depth);
  for (const PartTable& table : analysis.tables) text += table_text(table);
  if (analysis.generated)
    text += "note        the inputs are random (--data F.npz gives real ones): damage says little\n";
  const std::vector<StructureNote> notes = analysis.depth ? analysis.depth->notes : std::vector<StructureNote>();
  for (const StructureNote& note : notes) text += fmt::format("note        {}: {}\n", note.node, note.reason);
  text += fmt::format("time        {:.1f} s", analysis.seconds);
  if (analysis.depth) {
    text += fmt::format(", {:.1f} forward passes for {} blocks", analysis.depth->forward_passes,
                        analysis.depth->blocks.size());
  }
  return text + "\n";
}

}  // namespace onnxfold
