#include "analysis/depth/depth_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/calibrate/refit.h"
#include "analysis/compare/accumulate.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kWidestMap = 768;  // linear maps of wider streams cost more than they tell
constexpr std::int64_t kMapRows = 16;     // rows per channel that are enough for them

double norm_of(const double* row, std::int64_t width) {
  double squares = 0;
  for (std::int64_t c = 0; c < width; ++c) squares += row[c] * row[c];
  return std::sqrt(squares);
}

// Sums over rows of two values; `change`: b - a takes the place of b.
class ContributionSums {
 public:
  void add(const Matrix& stream, const Matrix& added) {
    for (std::int64_t row = 0; row < stream.rows; ++row) {
      const double* x = stream.data.data() + row * stream.cols;
      const double* y = added.data.data() + row * added.cols;
      const double a = norm_of(x, stream.cols), b = norm_of(y, added.cols);
      const double ratio = b / std::max(a, 1e-6);
      double dot = 0;
      for (std::int64_t c = 0; c < stream.cols; ++c) dot += x[c] * y[c];
      mean_ += ratio;
      max_ = std::max(max_, ratio);
      cosine_ += a > 0 && b > 0 ? dot / (a * b) : 0;
      ++rows_;
    }
  }
  Contribution result(std::string kind) const {
    const auto rows = static_cast<double>(std::max<std::int64_t>(rows_, 1));
    return {std::move(kind), mean_ / rows, max_, cosine_ / rows};
  }

 private:
  double mean_ = 0, max_ = 0, cosine_ = 0;
  std::int64_t rows_ = 0;
};

class DepthMeasurement {
 public:
  DepthMeasurement(const Model& model, const Dataset& data) : model_(model), data_(data) {}

  Result<DepthReport> run() {
    OF_ASSIGN(const StreamRecord stream, StreamRecord::create(model_, data_, StreamUnit::Part::kBlock));
    if (stream.view().blocks.empty()) {
      return fail(Code::kUnsupported,
                  "no residual stream with blocks was found; `inspect` says what was not understood");
    }
    OF_ASSIGN(const DamageMeter meter, DamageMeter::create(model_, data_));
    report_.forward_passes = 2;
    report_.damage_kind = meter.kind_name();
    report_.task_kind = meter.task_kind();
    report_.original = meter.original();
    report_.notes = stream.notes();
    OF_TRY(measure_blocks(stream));
    for (const StreamUnit& unit : stream.units()) OF_TRY(measure_without(stream, meter, unit));
    OF_TRY(measure_lens(stream, meter));
    OF_TRY(measure_windows(stream));
    OF_TRY(measure_maps(stream));
    return std::move(report_);
  }

 private:
  Result<Matrix> rows(const StreamRecord& stream, const Recording& recording, std::size_t batch,
                      const std::string& name, std::size_t block) const {
    return rows_of(recording.batches[batch].at(name), stream.masks()[batch], stream.channel_axis(block));
  }

  Status measure_blocks(const StreamRecord& stream) {
    std::set<std::string> wanted;
    for (const Block& block : stream.view().blocks) {
      for (const Sublayer& sublayer : block.sublayers)
        wanted.insert({sublayer.addend->name(), sublayer.stream->name()});
    }
    OF_ASSIGN(const Recording inner, record(model_, data_, {wanted.begin(), wanted.end()}));
    report_.forward_passes += 1;
    for (std::size_t i = 0; i < stream.view().blocks.size(); ++i) {
      const Block& block = stream.view().blocks[i];
      BlockDepth depth;
      depth.label = fmt::format("block {}", i);
      depth.kind = name(block.kind);
      depth.parameters = block.parameters();
      depth.skip_effect.assign(stream.view().blocks.size(), 0);
      if (block.input != nullptr && block.output != nullptr) {
        OF_ASSIGN(const auto sums, change_sums(stream, i));
        depth.block = sums.result("block");
        OF_ASSIGN(const auto angle, stream.angle(stream.recorded(), block.input->name(), stream.recorded(),
                                                 block.output->name(), stream.channel_axis(i)));
        depth.cosine = angle.cosine;
      }
      for (const Sublayer& sublayer : block.sublayers) {
        ContributionSums sums;
        for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
          OF_ASSIGN(const Matrix x, rows(stream, inner, batch, sublayer.stream->name(), i));
          OF_ASSIGN(const Matrix y, rows(stream, inner, batch, sublayer.addend->name(), i));
          if (x.rows == y.rows && x.cols == y.cols) sums.add(x, y);
        }
        depth.sublayers.push_back(sums.result(std::string(name(sublayer.kind))));
      }
      report_.blocks.push_back(std::move(depth));
    }
    return {};
  }

  Result<ContributionSums> change_sums(const StreamRecord& stream, std::size_t i) const {
    const Block& block = stream.view().blocks[i];
    ContributionSums sums;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      OF_ASSIGN(const Matrix in, rows(stream, stream.recorded(), batch, block.input->name(), i));
      OF_ASSIGN(const Matrix out, rows(stream, stream.recorded(), batch, block.output->name(), i));
      if (in.rows == out.rows && in.cols == out.cols) sums.add(in, sum(out, in, -1));
    }
    return sums;
  }

  Status measure_without(const StreamRecord& stream, const DamageMeter& meter, const StreamUnit& unit) {
    const auto& blocks = stream.view().blocks;
    std::vector<std::string> wanted;
    std::vector<std::size_t> later;
    for (std::size_t l = 0; l < blocks.size(); ++l) {
      const Block& block = blocks[l];
      const bool behind = l != unit.block && block.stream == blocks[unit.block].stream && block.input != nullptr &&
                          block.output != nullptr && l > unit.block;
      if (!behind) continue;
      later.push_back(l);
      wanted.push_back(block.output->name());
    }
    const std::string last = stream.final_value();
    const std::string final_without = unit.after->name() == last ? unit.before->name() : last;
    if (std::find(wanted.begin(), wanted.end(), final_without) == wanted.end()) wanted.push_back(final_without);
    OF_ASSIGN(const Recording changed, stream.without({unit}, wanted));
    report_.forward_passes += static_cast<double>(blocks.size() - unit.block) / static_cast<double>(blocks.size());
    BlockDepth& depth = report_.blocks[unit.block];
    OF_ASSIGN(depth.without, meter.measure(changed));
    OF_ASSIGN(const auto angle,
              stream.angle(stream.recorded(), last, changed, final_without, stream.channel_axis(blocks.size() - 1)));
    depth.macro = 1 - angle.cosine;
    depth.skip_effect[unit.block] = 1;
    for (const std::size_t l : later) {
      OF_ASSIGN(depth.skip_effect[l], skip_effect(stream, changed, unit, l));
    }
    if (!later.empty() && blocks[later.front()].input == unit.after) {
      OF_ASSIGN(depth.parallel, parallel_error(stream, changed, unit, later.front()));
    }
    return {};
  }

  // |d - d'| / |d| of block l's change of the stream, d' without the unit; mean over rows.
  Result<double> skip_effect(const StreamRecord& stream, const Recording& changed, const StreamUnit& unit,
                             std::size_t l) const {
    const Block& block = stream.view().blocks[l];
    const std::string in = block.input->name(), out = block.output->name();
    const std::string in_changed = block.input == unit.after ? unit.before->name() : in;
    double total = 0;
    std::int64_t count = 0;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      const bool made = changed.batches[batch].count(in_changed) != 0;
      OF_ASSIGN(const Matrix a, rows(stream, stream.recorded(), batch, in, l));
      OF_ASSIGN(const Matrix b, rows(stream, stream.recorded(), batch, out, l));
      OF_ASSIGN(const Matrix c, rows(stream, made ? changed : stream.recorded(), batch, in_changed, l));
      OF_ASSIGN(const Matrix d, rows(stream, changed, batch, out, l));
      if (a.cols != b.cols || c.cols != d.cols || a.rows != b.rows || a.rows != d.rows || a.cols != d.cols) continue;
      const Matrix full = sum(b, a, -1), other = sum(d, c, -1), gap = sum(full, other, -1);
      for (std::int64_t row = 0; row < full.rows; ++row) {
        total += norm_of(gap.data.data() + row * gap.cols, gap.cols) /
                 std::max(norm_of(full.data.data() + row * full.cols, full.cols), 1e-6);
        ++count;
      }
    }
    return count == 0 ? 0 : total / static_cast<double>(count);
  }

  // Both blocks of a pair on the same input h: h + F(h) + G(h) against h + F(h) + G(h + F(h)).
  Result<double> parallel_error(const StreamRecord& stream, const Recording& changed, const StreamUnit& unit,
                                std::size_t next) const {
    const std::string out = stream.view().blocks[next].output->name();
    double gap = 0, size = 0;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      OF_ASSIGN(const Matrix h, rows(stream, stream.recorded(), batch, unit.before->name(), next));
      OF_ASSIGN(const Matrix first, rows(stream, stream.recorded(), batch, unit.after->name(), next));
      OF_ASSIGN(const Matrix both, rows(stream, stream.recorded(), batch, out, next));
      OF_ASSIGN(const Matrix second, rows(stream, changed, batch, out, next));  // h + G(h)
      if (h.data.size() != both.data.size() || first.data.size() != both.data.size()) return 0;
      for (std::size_t i = 0; i < h.data.size(); ++i) {
        gap += std::pow(first.data[i] + second.data[i] - h.data[i] - both.data[i], 2);
        size += both.data[i] * both.data[i];
      }
    }
    return size > 0 ? std::sqrt(gap / size) : 0;
  }

  // The last stream value is replaced by an earlier one; only what follows the blocks runs.
  Status measure_lens(const StreamRecord& stream, const DamageMeter& meter) {
    const auto& blocks = stream.view().blocks;
    const std::string last = stream.final_value();
    const std::size_t index = blocks.back().stream;
    OF_ASSIGN(const auto part, model_part(model_, {last}, meter.output_names()));
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      if (blocks[i].stream != index || blocks[i].output == nullptr || blocks[i].width != blocks.back().width) continue;
      Recording fed;
      for (const Taps& batch : stream.recorded().batches)
        fed.batches.push_back({{last, batch.at(blocks[i].output->name())}});
      OF_ASSIGN(const Recording made, record(*part, data_, meter.output_names(), &fed));
      OF_TRY(judge_lens(meter, made, report_.blocks[i]));
    }
    for (std::size_t i = blocks.size(); i-- > 0;) {
      if (!report_.blocks[i].lens_top1 || *report_.blocks[i].lens_top1 < 0.95) break;
      report_.exit_behind = i;
    }
    return {};
  }

  Status judge_lens(const DamageMeter& meter, const Recording& made, BlockDepth& depth) const {
    for (const std::string& name : meter.output_names()) {
      OutputAccumulator sums(name);
      for (std::size_t batch = 0; batch < made.batches.size(); ++batch) {
        OF_TRY(sums.add(meter.original_outputs().batches[batch].at(name), made.batches[batch].at(name), batch));
      }
      const OutputMetrics metrics = sums.result();
      if (!metrics.kl) continue;
      depth.lens_kl = metrics.kl;
      depth.lens_top1 = metrics.top1;
      return {};
    }
    return {};
  }

  Status measure_windows(const StreamRecord& stream) {
    const std::size_t count = stream.units().size();
    std::vector<char> candidate(count, 0);
    for (std::size_t i = 2; i + 1 < count; ++i) candidate[i] = 1;
    for (std::size_t length = 1; length <= std::max<std::size_t>(1, count / 2); ++length) {
      std::vector<double> arcs;
      OF_ASSIGN(const auto first, closest_window(stream, length, candidate, &arcs));
      if (first) report_.windows.push_back({stream.units()[*first].block, length, arcs[*first]});
    }
    return {};
  }

  Status measure_maps(const StreamRecord& stream) {
    std::vector<std::string> points;
    for (const Block& block : stream.view().blocks) {
      if (block.stream != stream.view().blocks.back().stream || block.output == nullptr || block.input == nullptr)
        continue;
      if (block.width != stream.view().blocks.back().width || block.kind == Block::Kind::kConvolution) continue;
      if (points.empty()) points.push_back(block.input->name());
      points.push_back(block.output->name());
    }
    const std::int64_t width = stream.view().blocks.back().width;
    if (points.size() < 2 || width == 0 || width > kWidestMap) return {};
    std::vector<Matrix> values(points.size());
    for (std::size_t p = 0; p < points.size(); ++p) {
      for (std::size_t batch = 0; batch < data_.batches.size() && values[p].rows < width * kMapRows; ++batch) {
        OF_ASSIGN(const Matrix more, rows_of(stream.recorded().batches[batch].at(points[p]), stream.masks()[batch]));
        const std::int64_t take = std::min(more.rows, width * kMapRows - values[p].rows);
        values[p].cols = more.cols;
        values[p].rows += take;
        values[p].data.insert(values[p].data.end(), more.data.begin(), more.data.begin() + take * more.cols);
      }
      if (values[p].rows < 2 * width || values[p].cols != width) return {};
    }
    return explain(values);
  }

  Status explain(const std::vector<Matrix>& values) {
    const std::vector<char> held = held_out_rows(values[0].rows, 1, 0, 1);
    constexpr double kDamping[] = {1e-4};
    report_.r2.assign(values.size(), std::vector<double>(values.size(), 0));
    for (std::size_t i = 0; i < values.size(); ++i) {
      report_.r2[i][i] = 1;
      for (std::size_t j = i + 1; j < values.size(); ++j) {
        SplitRegression split;
        split.add(values[i], values[j], held);
        OF_ASSIGN(const Refit map, refit(split, Matrix(values[i].cols, values[j].cols), kDamping));
        report_.r2[i][j] = map.accepted ? 1 - map.error_after * map.error_after : 0;
      }
    }
    return {};
  }

  const Model& model_;
  const Dataset& data_;
  DepthReport report_;
};

}  // namespace

Result<DepthReport> measure_depth(const Model& model, const Dataset& data) {
  return DepthMeasurement(model, data).run();
}

}  // namespace onnxfold
