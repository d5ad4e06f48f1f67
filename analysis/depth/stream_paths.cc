#include "analysis/depth/stream_paths.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/gram.h"
#include "analysis/calibrate/refit.h"
#include "exec/parallel.h"
#include "ir/numeric.h"

namespace onnxfold {

Result<StreamPaths> find_stream_paths(const Graph& graph) {
  const BlockView view = find_blocks(graph);
  if (view.blocks.empty()) return fail(Code::kUnsupported, "no residual stream with blocks was found");
  const std::size_t stream = view.blocks.back().stream;
  StreamPaths found;
  for (std::size_t i = 0; i < view.blocks.size(); ++i) {
    const Block& block = view.blocks[i];
    if (block.stream != stream) continue;
    if (block.kind == Block::Kind::kPostNorm || block.kind == Block::Kind::kConvolution || block.input == nullptr ||
        block.output == nullptr) {
      return fail(Code::kUnsupported, fmt::format("block {} is {}: its stream is no plain sum", i, name(block.kind)));
    }
    if (found.paths.empty()) found.paths.push_back({"input of the blocks", block.input->name()});
    for (const Sublayer& sublayer : block.sublayers) {
      const bool shared = found.paths.back().value == sublayer.addend->name();
      if (!shared) found.paths.push_back({fmt::format("block {} {}", i, name(sublayer.kind)), sublayer.addend->name()});
    }
    found.last = block.output->name();
  }
  return found;
}

namespace {

// Moments by channel: of the addends (K x K), of addends and what is left over (K).
struct ChannelMoments {
  std::size_t paths = 0, channels = 0;
  std::vector<double> gram, cross, left, wanted;  // [pair][channel], [path][channel], [channel], [channel]
  std::int64_t rows = 0;

  void resize(std::size_t path_count, std::size_t channel_count) {
    paths = path_count;
    channels = channel_count;
    gram.assign(paths * paths * channels, 0);
    cross.assign(paths * channels, 0);
    left.assign(channels, 0);
    wanted.assign(channels, 0);
  }
};

void add_products(double* sums, const FloatRows& a, const FloatRows& b) {
  for (std::int64_t row = 0; row < a.rows; ++row) {
    const float *x = a.row(row), *y = b.row(row);
    for (std::int64_t c = 0; c < a.cols; ++c) sums[c] += static_cast<double>(x[c]) * static_cast<double>(y[c]);
  }
}

void add_rows(ChannelMoments& to, const std::vector<FloatRows>& paths, const FloatRows& left, const FloatRows& wanted) {
  const std::size_t count = paths.size(), channels = to.channels;
  parallel_for(static_cast<std::int64_t>(count), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) {
      const auto i = static_cast<std::size_t>(at);
      for (std::size_t j = i; j < count; ++j) {
        add_products(to.gram.data() + (i * count + j) * channels, paths[i], paths[j]);
      }
      add_products(to.cross.data() + i * channels, paths[i], left);
    }
  });
  add_products(to.left.data(), left, left);
  add_products(to.wanted.data(), wanted, wanted);
  to.rows += left.rows;
}

void add_channel(Regression& to, double& energy, const ChannelMoments& from, std::size_t channel) {
  const auto count = static_cast<std::int64_t>(from.paths);
  if (to.gram.empty()) to.gram = Matrix(count, count);
  if (to.cross.empty()) to.cross = Matrix(count, 1);
  for (std::size_t i = 0; i < from.paths; ++i) {
    for (std::size_t j = i; j < from.paths; ++j) {
      const double x = from.gram[(i * from.paths + j) * from.channels + channel];
      to.gram.at(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j)) += x;
      if (i != j) to.gram.at(static_cast<std::int64_t>(j), static_cast<std::int64_t>(i)) += x;
    }
    to.cross.at(static_cast<std::int64_t>(i), 0) += from.cross[i * from.channels + channel];
  }
  to.target_squares += from.left[channel];
  to.rows += from.rows;
  energy += from.wanted[channel];
}

Result<FloatRows> rows_at(const Taps& taps, const std::string& value, const std::vector<std::int64_t>& chosen) {
  OF_ASSIGN(const FloatView view, FloatView::of(taps.at(value)));
  FloatRows rows;
  gather_rows(view, chosen, rows);
  return rows;
}

class PathFit {
 public:
  PathFit(StreamPaths student, std::string teacher_last, const Dataset& data)
      : paths_(std::move(student)), teacher_last_(std::move(teacher_last)), data_(data) {
    for (const std::int64_t size : data.batch_sizes) samples_ += size;
  }

  Result<PathScales> run(const Model& student, const Model& teacher, bool by_channel) {
    std::vector<std::string> ours = {paths_.last};
    for (const StreamPath& path : paths_.paths) ours.push_back(path.value);
    OF_TRY(for_each_batch(student, ours, teacher, {teacher_last_}, data_,
                          [&](std::size_t batch, const Taps& mine, const Taps& theirs, const RowMask& mask) {
                            return add_batch(batch, mine, theirs, mask);
                          }));
    if (gap_ > 1e-8 * size_) {
      return fail(Code::kUnsupported, "the stream is more than the sum of what its blocks add");
    }
    return solve(by_channel);
  }

 private:
  Status add_batch(std::size_t batch, const Taps& mine, const Taps& theirs, const RowMask& mask) {
    const Datum &last = mine.at(paths_.last), &target = theirs.at(teacher_last_);
    if (!last.is_array() || !target.is_array() || last.array.dims() != target.array.dims()) {
      return fail(Code::kUnsupported, "the streams of the two models differ in shape");
    }
    const std::vector<std::int64_t> kept = kept_rows(last, mask);
    const auto held = held_out_rows(static_cast<std::int64_t>(kept.size()), data_.batch_sizes[batch], first_, samples_);
    first_ += data_.batch_sizes[batch];
    for (const bool check : {false, true}) {
      std::vector<std::int64_t> chosen;
      for (std::size_t i = 0; i < kept.size(); ++i) {
        if ((held[i] != 0) == check) chosen.push_back(kept[i]);
      }
      if (!chosen.empty()) OF_TRY(add_chosen(check ? check_ : fit_, mine, theirs, chosen));
    }
    return {};
  }

  Status add_chosen(ChannelMoments& to, const Taps& mine, const Taps& theirs, const std::vector<std::int64_t>& chosen) {
    OF_ASSIGN(const FloatRows last, rows_at(mine, paths_.last, chosen));
    OF_ASSIGN(const FloatRows wanted, rows_at(theirs, teacher_last_, chosen));
    if (to.gram.empty()) to.resize(paths_.paths.size(), static_cast<std::size_t>(last.cols));
    std::vector<FloatRows> parts;
    FloatRows gap = last, left = wanted;
    for (std::size_t i = 0; i < left.data.size(); ++i) left.data[i] -= last.data[i];
    for (const StreamPath& path : paths_.paths) {
      OF_ASSIGN(FloatRows rows, rows_at(mine, path.value, chosen));
      if (rows.data.size() != last.data.size()) return fail(Code::kUnsupported, "an addend has another shape");
      for (std::size_t i = 0; i < gap.data.size(); ++i) gap.data[i] -= rows.data[i];
      parts.push_back(std::move(rows));
    }
    for (std::size_t i = 0; i < gap.data.size(); ++i) {
      gap_ += static_cast<double>(gap.data[i]) * static_cast<double>(gap.data[i]);
      size_ += static_cast<double>(last.data[i]) * static_cast<double>(last.data[i]);
    }
    add_rows(to, parts, left, wanted);
    return {};
  }

  // One regression a channel, or one with the sums of all of them.
  Result<PathScales> solve(bool by_channel) const {
    PathScales out{paths_, {}, 0, 0, false};
    const std::size_t count = paths_.paths.size(), channels = fit_.channels;
    out.scale.assign(count, std::vector<double>(channels, 1.0));
    const Matrix ones(static_cast<std::int64_t>(count), 1, std::vector<double>(count, 1.0));
    double before = 0, after = 0, energy = 0;
    for (std::size_t first = 0; first < channels && check_.rows > 0; first += by_channel ? 1 : channels) {
      LeftOver sums;
      const std::size_t last = by_channel ? first + 1 : channels;
      for (std::size_t c = first; c < last; ++c) {
        add_channel(sums.moments.fit, sums.fit_energy, fit_, c);
        add_channel(sums.moments.check, sums.check_energy, check_, c);
      }
      OF_ASSIGN(const Refit solved, refit_left_over(sums, ones, default_dampings()));
      before += sums.moments.check.target_squares;
      energy += sums.check_energy;
      after +=
          solved.accepted ? std::pow(solved.error_after, 2) * sums.check_energy : sums.moments.check.target_squares;
      for (std::size_t k = 0; k < count; ++k) {
        for (std::size_t c = first; c < last; ++c) out.scale[k][c] = solved.weight.at(static_cast<std::int64_t>(k), 0);
      }
      out.accepted = out.accepted || solved.accepted;
    }
    if (energy > 0) out.error_before = std::sqrt(before / energy), out.error_after = std::sqrt(after / energy);
    return out;
  }

  const StreamPaths paths_;
  const std::string teacher_last_;
  const Dataset& data_;
  std::int64_t samples_ = 0, first_ = 0;
  double gap_ = 0, size_ = 0;
  ChannelMoments fit_, check_;
};

}  // namespace

Result<PathScales> fit_path_scales(const Model& student, const Model& teacher, const Dataset& data, bool by_channel) {
  OF_ASSIGN(StreamPaths ours, find_stream_paths(student.graph()));
  OF_ASSIGN(const StreamPaths theirs, find_stream_paths(teacher.graph()));
  return PathFit(std::move(ours), theirs.last, data).run(student, teacher, by_channel);
}

Result<std::size_t> put_path_scales(Graph& graph, const PathScales& scales) {
  Value* last = graph.find(scales.paths.last);
  if (last == nullptr || last->producer() == nullptr) return fail(Code::kInternal, "the stream is gone");
  const std::vector<Node*> nodes = graph.nodes();
  const auto at = std::find(nodes.begin(), nodes.end(), last->producer());
  const Node* next = at + 1 == nodes.end() ? nullptr : *(at + 1);
  const std::vector<Use> readers = last->uses();
  if (std::none_of(readers.begin(), readers.end(), [](const Use& use) { return use.node != nullptr; }))
    return std::size_t{0};
  Value* sum = last;
  std::size_t written = 0;
  for (std::size_t k = 0; k < scales.scale.size(); ++k) {
    std::vector<double> change = scales.scale[k];
    for (double& x : change) x -= 1;
    if (std::all_of(change.begin(), change.end(), [](double x) { return x == 0; })) continue;
    Value* path = graph.find(scales.paths.paths[k].value);
    if (path == nullptr) return fail(Code::kInternal, "a path is gone");
    const bool one = std::all_of(change.begin(), change.end(), [&](double x) { return x == change.front(); });
    if (one) change.resize(1);
    const auto width = static_cast<std::int64_t>(change.size());
    OF_ASSIGN(Tensor tensor, from_doubles(last->dtype(), {width}, change));
    Value* factor = graph.add_initializer(path->name() + "_scale", std::move(tensor));
    Node* mul = graph.insert({"Mul", {path, factor}, {{path->name() + "_scaled", last->type()}}, {}, "", ""}, next);
    Node* add =
        graph.insert({"Add", {sum, mul->output()}, {{last->name() + "_scaled", last->type()}}, {}, "", ""}, next);
    sum = add->output();
    ++written;
  }
  for (const Use& use : readers) {
    if (use.node != nullptr && written > 0) graph.set_input(*use.node, static_cast<std::size_t>(use.index), sum);
  }
  return written;
}

}  // namespace onnxfold
