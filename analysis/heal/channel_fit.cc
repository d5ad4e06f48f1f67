#include "analysis/heal/channel_fit.h"

#include <algorithm>
#include <cmath>

#include "analysis/calibrate/refit.h"
#include "analysis/calibrate/statistics.h"
#include "exec/stepper.h"
#include "ir/numeric.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kLeastRows = 16;

// Sums over rows of one channel: of the changed model s, of the original t.
struct Sums {
  double n = 0, s = 0, t = 0, ss = 0, st = 0, tt = 0;

  void add(double x, double y, double weight) {
    n += weight;
    s += weight * x;
    t += weight * y;
    ss += weight * x * x;
    st += weight * x * y;
    tt += weight * y * y;
  }

  // Sum of (scale s + shift - t)^2.
  double error(double scale, double shift) const {
    return std::max(0.0,
                    scale * scale * ss + n * shift * shift + tt + 2 * (scale * shift * s - scale * st - shift * t));
  }
};

// Rows that are fitted, and those held out to judge by; sums by channel.
struct Split {
  std::vector<Sums> train, check;
  std::int64_t train_rows = 0, check_rows = 0;
};

double row_energy(const Matrix& rows, std::int64_t row) {
  double energy = 0;
  for (std::int64_t c = 0; c < rows.cols; ++c) energy += rows.at(row, c) * rows.at(row, c);
  return energy;
}

double median(std::vector<double> numbers) {
  if (numbers.empty()) return 0;
  const auto middle = numbers.begin() + static_cast<std::ptrdiff_t>(numbers.size() / 2);
  std::nth_element(numbers.begin(), middle, numbers.end());
  return *middle;
}

// A value of one model and the node in front of which it can be read.
struct Stop {
  const Value* value = nullptr;
  const Node* node = nullptr;
};

// What a fit changes in the copy of the changed model: value * scale + shift stands in the place of the value.
struct Probe {
  const ChannelSite* site = nullptr;
  Stop changed, original;
  Value *scale = nullptr, *shift = nullptr;
  Dims dims;  // of scale and shift, to broadcast
  DType type = DType::kFloat32;
};

std::int64_t channels_of(const Value& value, int axis) {
  const auto rank = value.rank();
  if (!rank || !value.type().shape) return -1;
  const int at = axis < 0 ? axis + *rank : axis;
  if (at < 0 || at >= *rank) return -1;
  const Dim& dim = (*value.type().shape)[static_cast<std::size_t>(at)];
  return dim.known() ? *dim.value : -1;
}

const Node* node_after(const Graph& graph, const Node& node) {
  const std::vector<Node*> nodes = graph.nodes();
  const auto at = std::find(nodes.begin(), nodes.end(), &node);
  return at == nodes.end() || at + 1 == nodes.end() ? nullptr : *(at + 1);
}

class Fitter {
 public:
  Fitter(const Model& changed, const Model& original, const Dataset& data)
      : changed_(changed.clone()), original_(original.clone()), data_(data) {
    for (const Feeds& feeds : data.batches) masks_.push_back(row_mask(*original_, feeds));
    for (const std::int64_t size : data.batch_sizes) samples_ += size;
  }

  Result<std::map<std::string, ChannelFit>> run(const std::vector<ChannelSite>& sites) {
    for (const ChannelSite* site : in_order(sites)) place(*site);
    if (probes_.empty()) return std::move(fits_);
    OF_ASSIGN(student_, Stepper::create(*changed_, data_.batches));
    OF_ASSIGN(teacher_, Stepper::create(*original_, data_.batches));
    for (const Probe& probe : probes_) OF_TRY(fit(probe));
    return std::move(fits_);
  }

 private:
  std::vector<const ChannelSite*> in_order(const std::vector<ChannelSite>& sites) const {
    std::vector<const ChannelSite*> ordered;
    for (const Node* node : changed_->graph().nodes()) {
      for (const Value* output : node->outputs()) {
        if (output == nullptr) continue;
        for (const ChannelSite& site : sites) {
          if (site.value == output->name()) ordered.push_back(&site);
        }
      }
    }
    return ordered;
  }

  void place(const ChannelSite& site) {
    ChannelFit& fit = fits_[site.value];
    Value* ours = changed_->graph().find(site.value);
    Value* theirs = original_->graph().find(site.value);
    if (theirs == nullptr || theirs->producer() == nullptr) {
      fit.why = "the original model has no such value";
      return;
    }
    const std::int64_t channels = channels_of(*theirs, site.axis), seen = channels_of(*ours, site.axis);
    if (channels <= 0 || (seen != channels && seen != -1) || ours->rank() != theirs->rank()) {
      fit.why = "its channels are not known, or not those of the original model";
      return;
    }
    fit.scale.assign(static_cast<std::size_t>(channels), 1.0);
    fit.shift.assign(static_cast<std::size_t>(channels), 0.0);
    Probe probe;
    probe.site = &site;
    probe.type = ours->dtype();
    probe.dims = {channels};
    const int from_back = site.axis < 0 ? -site.axis - 1 : *ours->rank() - 1 - site.axis;
    for (int i = 0; i < from_back; ++i) probe.dims.push_back(1);
    probe.original = {theirs, watch(*theirs)};
    probe.changed = {ours, interpose(*ours, probe)};
    probes_.push_back(std::move(probe));
  }

  // A node that reads the value and stands behind all that were placed so, so that the stops come in their order.
  const Node* watch(Value& value) {
    Graph& graph = original_->graph();
    const bool early = last_watch_ != nullptr && graph.before(*value.producer(), *last_watch_);
    const Node* before = node_after(graph, early ? *last_watch_ : *value.producer());
    Node* node = graph.insert({"Identity", {&value}, {{value.name() + "_watched", value.type()}}, {}, "", ""}, before);
    graph.add_output(*node->output());
    return last_watch_ = node;
  }

  const Node* interpose(Value& value, Probe& probe) {
    Graph& graph = changed_->graph();
    const auto count = static_cast<std::size_t>(probe.dims[0]);
    const Node* before = node_after(graph, *value.producer());
    const std::vector<Use> uses = value.uses();
    probe.scale = graph.add_initializer(value.name() + "_scale",
                                        *from_doubles(probe.type, probe.dims, std::vector<double>(count, 1.0)));
    probe.shift = graph.add_initializer(value.name() + "_shift",
                                        *from_doubles(probe.type, probe.dims, std::vector<double>(count, 0.0)));
    Node* mul = graph.insert({"Mul", {&value, probe.scale}, {{value.name() + "_m", value.type()}}, {}, "", ""}, before);
    Node* add =
        graph.insert({"Add", {mul->output(), probe.shift}, {{value.name() + "_a", value.type()}}, {}, "", ""}, before);
    for (const Use& use : uses) {
      if (use.node != nullptr) graph.set_input(*use.node, static_cast<std::size_t>(use.index), add->output());
    }
    if (uses.empty() || add->output()->uses().empty()) graph.add_output(*add->output());
    return mul;
  }

  Status fit(const Probe& probe) {
    OF_TRY(student_->run_until(probe.changed.node));
    OF_TRY(teacher_->run_until(probe.original.node));
    OF_ASSIGN(const std::vector<double> energies, row_energies(probe));
    const double floor = median(energies);
    const auto channels = static_cast<std::size_t>(probe.dims[0]);
    Split split{std::vector<Sums>(channels), std::vector<Sums>(channels)};
    std::int64_t first = 0;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      const std::int64_t samples = batch < data_.batch_sizes.size() ? data_.batch_sizes[batch] : 0;
      OF_TRY(add_batch(probe, batch, samples, first, floor, split));
      first += samples;
    }
    ChannelFit& out = fits_[probe.site->value];
    out.rows = split.train_rows;
    if (out.rows < kLeastRows || split.check_rows == 0) {
      out.why = "too few rows of data reach it";
      return {};
    }
    solve(probe, split.train, out);
    judge(split.check, out);
    if (!out.accepted) {
      std::fill(out.scale.begin(), out.scale.end(), 1.0);
      std::fill(out.shift.begin(), out.shift.end(), 0.0);
      return {};
    }
    OF_TRY(put(*probe.scale, probe, out.scale));
    return put(*probe.shift, probe, out.shift);
  }

  // Squares of the rows of the original.
  Result<std::vector<double>> row_energies(const Probe& probe) const {
    std::vector<double> energies;
    for (std::size_t batch = 0; batch < data_.batches.size(); ++batch) {
      OF_ASSIGN(const Datum theirs, teacher_->value(batch, *probe.original.value));
      if (!theirs.is_array()) continue;
      OF_ASSIGN(const Matrix t, rows_of(theirs, masks_[batch], probe.site->axis));
      for (std::int64_t row = 0; row < t.rows; ++row) energies.push_back(row_energy(t, row));
    }
    return energies;
  }

  Status add_batch(const Probe& probe, std::size_t batch, std::int64_t samples, std::int64_t first, double floor,
                   Split& split) const {
    OF_ASSIGN(const Datum ours, student_->value(batch, *probe.changed.value));
    OF_ASSIGN(const Datum theirs, teacher_->value(batch, *probe.original.value));
    if (!ours.is_array() || !theirs.is_array() || ours.array.dims() != theirs.array.dims()) return {};
    OF_ASSIGN(const Matrix s, rows_of(ours, masks_[batch], probe.site->axis));
    OF_ASSIGN(const Matrix t, rows_of(theirs, masks_[batch], probe.site->axis));
    const std::vector<char> held = held_out_rows(s.rows, samples, first, samples_);
    for (std::int64_t row = 0; row < s.rows; ++row) {
      const bool out = held[static_cast<std::size_t>(row)] != 0;
      const double energy = row_energy(t, row), weight = floor > 0 ? 2 * floor / (energy + floor) : 1;
      for (std::int64_t c = 0; c < s.cols; ++c) {
        (out ? split.check : split.train)[static_cast<std::size_t>(c)].add(s.at(row, c), t.at(row, c), weight);
      }
      ++(out ? split.check_rows : split.train_rows);
    }
    return {};
  }

  static void solve(const Probe& probe, const std::vector<Sums>& train, ChannelFit& out) {
    for (std::size_t c = 0; c < train.size(); ++c) {
      const Sums& sums = train[c];
      double scale = 1;
      if (probe.site->scale) {
        const double ss = probe.site->shift ? sums.ss - sums.s * sums.s / sums.n : sums.ss;
        const double st = probe.site->shift ? sums.st - sums.s * sums.t / sums.n : sums.st;
        // Toward 1, by a hundredth of the channel's energy: one that hardly moves tells nothing of its scale.
        const double damping = 0.01 * sums.ss;
        if (ss + damping > 0) scale = (st + damping) / (ss + damping);
        if (!(scale > 0.1 && scale < 10)) scale = 1;
      }
      const double shift = probe.site->shift ? (sums.t - scale * sums.s) / sums.n : 0;
      if (!std::isfinite(scale) || !std::isfinite(shift)) continue;
      out.scale[c] = scale;
      out.shift[c] = shift;
    }
  }

  static void judge(const std::vector<Sums>& check, ChannelFit& out) {
    double before = 0, after = 0, total = 0;
    for (std::size_t c = 0; c < check.size(); ++c) {
      before += check[c].error(1, 0);
      after += check[c].error(out.scale[c], out.shift[c]);
      total += check[c].tt;
    }
    if (!(total > 0) || !std::isfinite(after)) return;
    out.error_before = std::sqrt(before / total);
    out.error_after = std::sqrt(after / total);
    out.accepted = after < before * (1 - 1e-9);
  }

  Status put(const Value& value, const Probe& probe, const std::vector<double>& numbers) const {
    OF_ASSIGN(const Tensor tensor, from_doubles(probe.type, probe.dims, numbers));
    OF_ASSIGN(Array array, to_array(tensor, Precision::kFloat32));
    return student_->replace(value, Datum(std::move(array)));
  }

  std::unique_ptr<Model> changed_, original_;
  const Dataset& data_;
  std::vector<RowMask> masks_;
  std::int64_t samples_ = 0;
  const Node* last_watch_ = nullptr;
  std::vector<Probe> probes_;
  std::unique_ptr<Stepper> student_, teacher_;
  std::map<std::string, ChannelFit> fits_;
};

}  // namespace

Result<std::map<std::string, ChannelFit>> fit_channels(const Model& changed, const Model& original, const Dataset& data,
                                                       const std::vector<ChannelSite>& sites) {
  return Fitter(changed, original, data).run(sites);
}

}  // namespace onnxfold
