#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/part.h"
#include "analysis/compare/damage.h"
#include "analysis/depth/part_table.h"
#include "analysis/depth/stream_paths.h"

namespace onnxfold {
namespace {

// From the stream to the scores: a norm whose statistics are frozen, then a Linear.
struct Head {
  Norm norm;
  Linear linear;
  Matrix weight;
  std::vector<double> gain;
};

class PathEnsemble {
 public:
  PathEnsemble(const Model& model, const Dataset& data) : model_(model), data_(data) {}

  Result<PartTable> run() {
    OF_ASSIGN(const StreamPaths found, find_stream_paths(model_.graph()));
    addends_ = found.paths;
    last_ = found.last;
    std::vector<std::string> wanted = {last_};
    for (const StreamPath& addend : addends_) wanted.push_back(addend.value);
    OF_ASSIGN(values_, record(model_, data_, wanted));
    OF_TRY(check_sum());
    OF_TRY(find_head());
    OF_ASSIGN(const DamageMeter meter, DamageMeter::create(model_, data_));
    OF_ASSIGN(const auto part, model_part(model_, {last_}, meter.output_names()));
    PartTable table{"paths",
                    {"norm     mean length of the addend, relative to the stream that the head reads; cosine with it",
                     "share    of the winning output that comes from the addend (the last norm's statistics frozen)",
                     fmt::format("without  {} when the head does not see the addend; the original has {:.4f}",
                                 meter.kind_name(), meter.original().value)},
                    {},
                    {}};
    for (std::size_t i = 0; i < addends_.size(); ++i) {
      OF_ASSIGN(PartRow row, measure(i, meter, *part));
      table.rows.push_back(std::move(row));
    }
    return table;
  }

 private:
  Result<Matrix> rows(const std::string& value, std::size_t batch) const {
    return rows_of(values_.batches[batch].at(value), {});
  }

  Status check_sum() const {
    double gap = 0, size = 0;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      OF_ASSIGN(const Matrix last, rows(last_, batch));
      Matrix total(last.rows, last.cols);
      for (const StreamPath& addend : addends_) {
        OF_ASSIGN(const Matrix part, rows(addend.value, batch));
        if (part.data.size() != total.data.size()) return fail(Code::kUnsupported, "an addend has another shape");
        total = sum(total, part);
      }
      gap += std::pow(frobenius_norm(sum(total, last, -1)), 2);
      size += std::pow(frobenius_norm(last), 2);
    }
    if (gap > 1e-8 * size) return fail(Code::kUnsupported, "the stream is more than the sum of what its blocks add");
    return {};
  }

  Status find_head() {
    const Graph& graph = model_.graph();
    for (const Norm& norm : find_norms(graph)) {
      if (norm.input->name() != last_ || norm.skip != nullptr) continue;
      for (const Linear& linear : find_linears(graph)) {
        if (linear.input != norm.output || !linear.output->is_graph_output()) continue;
        Head head{norm, linear, {}, std::vector<double>(static_cast<std::size_t>(linear.in), 1)};
        OF_ASSIGN(head.weight, weight_matrix(linear));
        if (norm.gain != nullptr) {
          OF_ASSIGN(head.gain, to_doubles(*norm.gain->constant()));
        }
        head_ = std::move(head);
        return {};
      }
    }
    return {};
  }

  Result<PartRow> measure(std::size_t index, const DamageMeter& meter, const Model& part) const {
    const std::string& value = addends_[index].value;
    double length = 0, cosine = 0, share = 0;
    std::int64_t count = 0;
    Recording without;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      OF_ASSIGN(const Matrix x, rows(last_, batch));
      OF_ASSIGN(const Matrix p, rows(value, batch));
      for (std::int64_t row = 0; row < x.rows; ++row) {
        double xx = 0, pp = 0, xp = 0;
        for (std::int64_t c = 0; c < x.cols; ++c) {
          xx += x.at(row, c) * x.at(row, c);
          pp += p.at(row, c) * p.at(row, c);
          xp += x.at(row, c) * p.at(row, c);
        }
        length += std::sqrt(pp / std::max(xx, 1e-12));
        cosine += xx > 0 && pp > 0 ? xp / std::sqrt(xx * pp) : 0;
        ++count;
      }
      if (head_) share += share_of(x, p);
      const Array& whole = values_.batches[batch].at(last_).array;
      const Matrix rest = sum(x, p, -1);
      OF_ASSIGN(const Tensor tensor, from_doubles(whole.dtype(), whole.dims(), rest.data));
      OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat32));
      without.batches.push_back({{last_, Datum(std::move(array))}});
    }
    OF_ASSIGN(const Recording made, record(part, data_, meter.output_names(), &without));
    OF_ASSIGN(const Damage damage, meter.measure(made));
    const auto n = static_cast<double>(std::max<std::int64_t>(count, 1));
    const bool helps = damage.value < meter.original().value;
    const bool idle = damage.value - meter.original().value < 0.001 * std::max(1e-9, std::fabs(meter.original().value));
    return PartRow{addends_[index].label,
                   {{"norm", length / n},
                    {"cosine", cosine / n},
                    {"share", head_ ? std::optional(share / n) : std::nullopt},
                    {"without", damage.value}},
                   helps  ? "the head does better without it: it serves later blocks only"
                   : idle ? "the head hardly reads it: a candidate for drop-blocks if later blocks do not either"
                          : "keep"};
  }

  // Sum over rows of the addend's part of the winning score over the whole score, biases apart.
  double share_of(const Matrix& x, const Matrix& p) const {
    double total = 0;
    const bool layer = head_->norm.kind == Norm::Kind::kLayer;
    Matrix whole(x.rows, x.cols), mine(x.rows, x.cols);
    for (std::int64_t row = 0; row < x.rows; ++row) {
      double mean_x = 0, mean_p = 0, squares = 0;
      for (std::int64_t c = 0; layer && c < x.cols; ++c) {
        mean_x += x.at(row, c) / static_cast<double>(x.cols);
        mean_p += p.at(row, c) / static_cast<double>(x.cols);
      }
      for (std::int64_t c = 0; c < x.cols; ++c) squares += std::pow(x.at(row, c) - mean_x, 2);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(x.cols) + head_->norm.epsilon);
      for (std::int64_t c = 0; c < x.cols; ++c) {
        const double gain = scale * head_->gain[static_cast<std::size_t>(c)];
        whole.at(row, c) = gain * (x.at(row, c) - mean_x);
        mine.at(row, c) = gain * (p.at(row, c) - mean_p);
      }
    }
    const Matrix scores = product(whole, head_->weight), parts = product(mine, head_->weight);
    for (std::int64_t row = 0; row < scores.rows; ++row) {
      std::int64_t best = 0;
      for (std::int64_t c = 1; c < scores.cols; ++c) best = scores.at(row, c) > scores.at(row, best) ? c : best;
      if (scores.at(row, best) != 0) total += parts.at(row, best) / scores.at(row, best);
    }
    return total;
  }

  const Model& model_;
  const Dataset& data_;
  std::vector<StreamPath> addends_;
  std::string last_;
  Recording values_;
  std::optional<Head> head_;
};

}  // namespace

Result<PartTable> measure_paths(const Model& model, const Dataset& data) { return PathEnsemble(model, data).run(); }

}  // namespace onnxfold
