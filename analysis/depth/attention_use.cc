#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/statistics.h"
#include "analysis/depth/part_table.h"
#include "analysis/structure/attention.h"

namespace onnxfold {
namespace {

constexpr double kUniform = 0.95;  // of the largest entropy

// Sums over queries of one head.
struct HeadSums {
  double distance = 0, span90 = 0, first = 0, entropy = 0, peak = 0, uniform = 0;
  std::int64_t queries = 0, uncertain = 0;  // uncertain: with more than one key to choose from
};

class AttentionUse {
 public:
  explicit AttentionUse(std::int64_t heads) : heads_(static_cast<std::size_t>(heads)) {}

  // Probabilities [.., heads, queries, keys].
  Status add(const Datum& datum, const RowMask& mask) {
    if (!datum.is_array() || datum.array.rank() < 3) return {};
    const Array& array = datum.array;
    const std::int64_t keys = array.dim(-1), queries = array.dim(-2), heads = array.dim(-3);
    if (heads != static_cast<std::int64_t>(heads_.size())) return {};
    OF_ASSIGN(const std::vector<double> numbers, to_doubles(array));
    const std::int64_t rows = array.size() / std::max<std::int64_t>(1, keys);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t query = row % queries, head = row / queries % heads, batch = row / queries / heads;
      const bool fits = mask.dims.size() == 2 && mask.dims[1] == queries && batch < mask.dims[0];
      if (fits && mask.keep[static_cast<std::size_t>(batch * queries + query)] == 0) continue;
      add_query(heads_[static_cast<std::size_t>(head)], numbers.data() + row * keys, keys, keys - queries + query);
    }
    return {};
  }
  const std::vector<HeadSums>& heads() const { return heads_; }

 private:
  // `at`: the query's own place among the keys.
  void add_query(HeadSums& sums, const double* p, std::int64_t keys, std::int64_t at) {
    double entropy = 0, distance = 0, log_sum = 0, log_most = -HUGE_VAL;
    std::int64_t allowed = 0;
    by_distance_.assign(static_cast<std::size_t>(keys + std::abs(at) + 1), 0);
    for (std::int64_t key = 0; key < keys; ++key) {
      if (p[key] <= 1e-12) continue;
      const double log_p = std::log(p[key]);
      entropy -= p[key] * log_p;
      log_sum += log_p;
      log_most = std::max(log_most, log_p);
      distance += p[key] * static_cast<double>(std::abs(at - key));
      by_distance_[static_cast<std::size_t>(std::abs(at - key))] += p[key];
      ++allowed;
    }
    if (allowed == 0) return;
    double mass = 0;
    std::size_t span = 0;
    while (span + 1 < by_distance_.size() && (mass += by_distance_[span]) < 0.9) ++span;
    ++sums.queries;
    sums.distance += distance;
    sums.span90 += static_cast<double>(span);
    sums.first += p[0];
    if (allowed < 2) return;
    const double share = entropy / std::log(static_cast<double>(allowed));
    ++sums.uncertain;
    sums.entropy += share;
    sums.peak += log_most - log_sum / static_cast<double>(allowed);
    sums.uniform += share > kUniform ? 1 : 0;
  }

  std::vector<HeadSums> heads_;
  std::vector<double> by_distance_;
};

std::string use_of(double uniform, double first, double span, double keys) {
  if (uniform > 0.9) return "nearly uniform: the mean of the values could stand for it; prune-heads";
  if (first > 0.9) return "looks at the first token only: prune-heads";
  if (keys > 0 && span < keys / 8) return "local: a window of its span would do (saves work on long inputs only)";
  return "keep";
}

}  // namespace

Result<PartTable> measure_attention(const Model& model, const Dataset& data) {
  PartTable table{
      "attention",
      {"distance   mean distance of what a query looks at, in tokens; span90: distance that holds 90 % of it",
       "first      share of the first token; entropy: 1 when all keys count alike, 0 when one does",
       "uniform    share of queries with entropy above 0.95: they only take a mean",
       "peak       largest less mean score of a query (Informer's sparsity): near 0 queries need no attention"},
      {},
      {}};
  std::vector<std::string> taps;
  std::vector<AttentionUse> uses;
  std::vector<StructureNote> notes;
  const std::vector<Attention> attentions = find_attentions(model.graph(), &table.notes);
  for (const Attention& attention : attentions) {
    if (attention.softmax == nullptr) {
      table.notes.push_back({attention.fused->label(), "its probabilities are inside the operator: expand-attention"});
      continue;
    }
    taps.push_back(attention.softmax->output()->name());
    uses.emplace_back(attention.heads);
  }
  double keys = 0;
  const BatchVisitor visit = [&](std::size_t, const Taps& values, const RowMask& mask) -> Status {
    for (std::size_t i = 0; i < taps.size(); ++i) {
      const Datum& datum = values.at(taps[i]);
      if (datum.is_array() && datum.array.rank() > 0) keys = std::max(keys, static_cast<double>(datum.array.dim(-1)));
      OF_TRY(uses[i].add(datum, mask));
    }
    return {};
  };
  OF_TRY(for_each_batch(model, data, taps, visit));
  for (std::size_t i = 0; i < uses.size(); ++i) {
    for (std::size_t head = 0; head < uses[i].heads().size(); ++head) {
      const HeadSums& sums = uses[i].heads()[head];
      const auto queries = static_cast<double>(std::max<std::int64_t>(sums.queries, 1));
      const auto uncertain = static_cast<double>(std::max<std::int64_t>(sums.uncertain, 1));
      const double first = sums.first / queries, uniform = sums.uniform / uncertain, span = sums.span90 / queries;
      table.rows.push_back({fmt::format("attention {} head {}", i, head),
                            {{"distance", sums.distance / queries},
                             {"span90", span},
                             {"first", first},
                             {"entropy", sums.entropy / uncertain},
                             {"uniform", uniform},
                             {"peak", sums.peak / uncertain}},
                            use_of(uniform, first, span, keys)});
    }
  }
  return table;
}

}  // namespace onnxfold
