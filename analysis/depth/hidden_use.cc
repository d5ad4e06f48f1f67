#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "analysis/algebra/low_rank.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/depth/linearity.h"
#include "analysis/depth/part_table.h"
#include "analysis/structure/feed_forward.h"

namespace onnxfold {
namespace {

struct HiddenSums {
  double needed = 0, zeros = 0, overlap = 0;
  std::int64_t rows = 0, pairs = 0;
};

// Channels that hold 90 % of the magnitude of each row, and how many of them the next row has too.
void add_rows(HiddenSums& sums, const Matrix& rows) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(rows.cols));
  std::vector<char> before;
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    const double* x = rows.data.data() + row * rows.cols;
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return std::fabs(x[a]) != std::fabs(x[b]) ? std::fabs(x[a]) > std::fabs(x[b]) : a < b;
    });
    double all = 0, mass = 0, zeros = 0;
    for (std::int64_t c = 0; c < rows.cols; ++c) {
      all += std::fabs(x[c]);
      zeros += x[c] == 0 ? 1 : 0;
    }
    std::vector<char> active(static_cast<std::size_t>(rows.cols), 0);
    double needed = 0, both = 0;
    for (const std::int64_t c : order) {
      if (mass >= 0.9 * all) break;
      mass += std::fabs(x[c]);
      active[static_cast<std::size_t>(c)] = 1;
      ++needed;
      both += !before.empty() && before[static_cast<std::size_t>(c)] != 0 ? 1 : 0;
    }
    if (!before.empty() && needed > 0) {
      sums.overlap += both / needed;
      ++sums.pairs;
    }
    sums.needed += needed / static_cast<double>(rows.cols);
    sums.zeros += zeros / static_cast<double>(rows.cols);
    ++sums.rows;
    before = std::move(active);
  }
}

// Reverse water-filling: the least squared error, relative, of coding this Gaussian at `bits` in all.
double rate_distortion(const std::vector<double>& variances, double bits) {
  const double all = std::accumulate(variances.begin(), variances.end(), 0.0);
  if (all <= 0) return 0;
  double low = 0, high = *std::max_element(variances.begin(), variances.end());
  for (int step = 0; step < 200; ++step) {
    const double level = (low + high) / 2;
    double spent = 0;
    for (const double variance : variances) spent += variance > level ? std::log2(variance / level) / 2 : 0;
    (spent > bits ? low : high) = level;
  }
  double error = 0;
  for (const double variance : variances) error += std::min(variance, high);
  return error / all;
}

}  // namespace

Result<PartTable> measure_hidden(const Model& model, const Dataset& data) {
  PartTable table{"hidden",
                  {"needed   share of the channels that hold 90 % of the magnitude of a row, mean over rows",
                   "zeros    share of the values that are exactly 0",
                   "overlap  share of them that the next row needs too: high means that the same ones always matter"},
                  {},
                  {}};
  std::vector<std::string> taps, labels;
  const std::vector<FeedForward> layers = find_feed_forwards(model.graph());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    taps.push_back(layers[i].down.input->name());
    labels.push_back(fmt::format("feed-forward {} hidden", i));
  }
  const BlockView view = find_blocks(model.graph());
  for (std::size_t i = 0; i < view.blocks.size(); ++i) {
    const Block& block = view.blocks[i];
    if (block.output == nullptr || block.kind == Block::Kind::kConvolution) continue;
    taps.push_back(block.output->name());
    labels.push_back(fmt::format("stream behind block {}", i));
  }
  std::vector<HiddenSums> sums(taps.size());
  const BatchVisitor visit = [&](std::size_t, const Taps& values, const RowMask& mask) -> Status {
    for (std::size_t i = 0; i < taps.size(); ++i) {
      OF_ASSIGN(const Matrix rows, rows_of(values.at(taps[i]), mask));
      add_rows(sums[i], rows);
    }
    return {};
  };
  OF_TRY(for_each_batch(model, data, taps, visit));
  for (std::size_t i = 0; i < taps.size(); ++i) {
    const auto rows = static_cast<double>(std::max<std::int64_t>(sums[i].rows, 1));
    const double needed = sums[i].needed / rows;
    const double overlap = sums[i].overlap / static_cast<double>(std::max<std::int64_t>(sums[i].pairs, 1));
    const bool hidden = i < layers.size();
    std::string use = "keep";
    if (hidden && needed < 0.35) {
      use = overlap > 0.8 ? "the same few neurons work: prune-neurons" : "each row uses few neurons, but other ones";
    } else if (hidden && needed < 0.5) {
      use = "prune-neurons with a small ratio";
    }
    table.rows.push_back({labels[i], {{"needed", needed}, {"zeros", sums[i].zeros / rows}, {"overlap", overlap}}, use});
  }
  return table;
}

Result<PartTable> measure_lut(const Model& model, const Dataset& data) {
  constexpr std::int64_t kWidest = 1024;
  PartTable table{
      "lut",
      {"slice2..8  least relative error of the inputs when each slice of 2, 4, 8 inputs is one of 16 entries",
       "           (tables then hold 8, 4, 2 numbers for each weight; at slices of 16 as many as the weight)"},
      {},
      {}};
  std::vector<std::string> taps;
  const std::vector<Linear> linears = find_linears(model.graph());
  for (const Linear& linear : linears) {
    if (linear.in <= kWidest) taps.push_back(linear.input->name());
  }
  std::sort(taps.begin(), taps.end());
  taps.erase(std::unique(taps.begin(), taps.end()), taps.end());
  OF_ASSIGN(const auto statistics, collect_statistics(model, data, taps));
  std::map<std::string, std::vector<double>> variances;
  for (const auto& [name, each] : statistics) variances[name] = svd(each.gram).singular;
  for (const Linear& linear : linears) {
    const auto found = variances.find(linear.input->name());
    if (found == variances.end() || static_cast<std::int64_t>(found->second.size()) != linear.in) {
      table.notes.push_back({linear.product->label(), fmt::format("{} inputs: not measured", linear.in)});
      continue;
    }
    PartRow row{linear.product->label(), {}, ""};
    double least = 1;
    for (const int slice : {2, 4, 8}) {
      const double error =
          std::sqrt(rate_distortion(found->second, 4.0 * static_cast<double>(linear.in) / static_cast<double>(slice)));
      row.numbers.emplace_back(fmt::format("slice{}", slice), error);
      least = std::min(least, error);
    }
    row.use = least < 0.05 ? "tables could work here (after training them); no pass does it"
                           : "no: a table without training loses more than 4-bit weights (int4-gptq)";
    table.rows.push_back(std::move(row));
  }
  return table;
}

Result<PartTable> linearity_table(const Model& model, const Model& aligned) {
  PartTable table{
      "linearity",
      {"explained  share of the squares of the weights that base + depth * slope explains; null: what it",
       "           explains of independent layers; centred: about the mean over layers, with its null",
       "aligned    explained when hidden neurons and heads are put in the order of the layer before, as",
       "           fit-linear-depth does; it takes roles where aligned is half of the way from the null to 1"},
      {},
      {}};
  const BlockView view = find_blocks(model.graph()), ordered = find_blocks(aligned.graph());
  OF_ASSIGN(const std::vector<Linearity> rows, measure_linearity(view, &ordered));
  for (const Linearity& row : rows) {
    const double excess = excess_over(row.null, row.aligned.value_or(row.explained));
    const bool vector = row.role.find("gain") != std::string::npos || row.role.find("bias") != std::string::npos;
    const std::string use = vector ? "a vector: too small to save anything"
                            : excess < 0.1
                                ? "layers share nothing: sharing, or a line over depth, needs full-rank corrections"
                            : excess >= kWorthALine ? "nearly a line over depth: fit-linear-depth"
                                                    : "some of it is shared: tie-layers with low-rank corrections";
    table.rows.push_back({row.role,
                          {{"layers", static_cast<double>(row.layers)},
                           {"explained", row.explained},
                           {"null", row.null},
                           {"centred", row.centred},
                           {"null centred", row.centred_null},
                           {"aligned", row.aligned}},
                          use});
  }
  return table;
}

}  // namespace onnxfold
