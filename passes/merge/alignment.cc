#include "passes/merge/alignment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "analysis/algebra/assignment.h"
#include "analysis/algebra/orthogonal.h"
#include "analysis/align/axis_map.h"
#include "analysis/align/cross_statistics.h"
#include "analysis/align/heads.h"
#include "analysis/calibrate/statistics.h"
#include "analysis/structure/axis_groups.h"
#include "analysis/structure/correspondence.h"
#include "exec/side_by_side.h"

namespace onnxfold {
namespace {

double trace(const Matrix& map, const Matrix& cross) {
  double result = 0;
  for (std::size_t i = 0; i < map.data.size(); ++i) result += map.data[i] * cross.data[i];
  return result;
}

double diagonal(const Matrix& cross) {
  double result = 0;
  for (std::int64_t i = 0; i < cross.rows; ++i) result += cross.at(i, i);
  return result;
}

// Where the neurons of a group are made: the end of a Linear or convolution, or a sum of branches.
bool is_feature(const Value& value) {
  const Node* node = value.producer();
  if (node == nullptr) return false;
  if (node->is("Conv") || node->is("BatchNormalization")) return true;
  if (const auto linear = linear_making(&value)) return linear->output == &value;
  return node->is("Add") && parameter(node->input(0)) == nullptr && parameter(node->input(1)) == nullptr;
}

class Aligner {
 public:
  Aligner(Model& model, Model& anchor, const AlignmentOptions& options)
      : model_(model), anchor_(anchor), options_(options) {}

  Result<Alignment> run() {
    OF_TRY(prepare());
    Alignment result;
    result.distance_before = distance();
    if (options_.data != nullptr) OF_TRY(align_by_activations());
    if (options_.data == nullptr || options_.sweeps > 0) align_by_weights();
    result.distance = distance();
    result.layers = std::move(layers_);
    OF_ASSIGN(result.model, written());
    return result;
  }

 private:
  Status prepare() {
    OF_ASSIGN(map_, correspond(model_.graph(), anchor_.graph()));
    AxisGroups found = find_axis_groups(model_.graph());
    groups_ = std::move(found.groups);
    std::map<const Value*, int> users;
    RotaryProbe probe(model_);
    for (const Attention& attention : found.attentions) {
      const auto rotary = attention.rotary ? probe.of(attention) : std::nullopt;
      auto site = head_site(attention, options_.rotate, rotary ? &*rotary : nullptr);
      if (!site) continue;
      for (const Linear* linear : linears_of(*site)) ++users[linear->weight];
      sites_.push_back(std::move(*site));
    }
    // Layers that share weights would have to share the order of their heads.
    std::erase_if(sites_, [&](const HeadSite& site) {
      const auto linears = linears_of(site);
      return users[site.attention.out->weight] > 1 || !std::all_of(linears.begin(), linears.end(), read_once);
    });
    for (const ConstantPair& pair : map_.constants) {
      if (!is_float(parameter(pair.second)->dtype())) continue;
      OF_ASSIGN(Weight a, weight_of(*pair.first));
      OF_ASSIGN(Weight b, weight_of(*pair.second));
      if (a.dims != b.dims) {
        return fail(
            Code::kInvalidArgument,
            fmt::format(
                "weight '{}' is [{}] and '{}' of the anchor is [{}]: models of different widths need --method ot",
                pair.first->name(), fmt::join(a.dims, ","), pair.second->name(), fmt::join(b.dims, ",")));
      }
      own_.emplace(pair.first, std::move(a));
      theirs_.emplace(pair.first, std::move(b));
    }
    return {};
  }

  // Another reader (a fused operator that holds the same weights) would see the heads in another order.
  static bool read_once(const Linear* linear) {
    return linear->weight->uses().size() == 1 &&
           (linear->weight_transpose == nullptr || linear->weight_transpose->output()->uses().size() == 1);
  }
  static std::vector<const Linear*> linears_of(const HeadSite& site) {
    return {&*site.attention.q.linear, &*site.attention.k.linear, &*site.attention.v.linear, &*site.attention.out};
  }

  // A constant with all maps but the one along `except`.
  Weight transformed(const Value* constant, int except = -1) const {
    Weight weight = own_.at(constant);
    for (int axis = 0; axis < static_cast<int>(weight.dims.size()); ++axis) {
      const auto map = maps_.find({constant, axis});
      if (axis != except && map != maps_.end()) weight = mapped(weight, axis, map->second);
    }
    return weight;
  }

  double distance() const {
    double squared = 0;
    for (const auto& entry : own_) {
      const Weight a = transformed(entry.first);
      const Weight& b = theirs_.at(entry.first);
      for (std::size_t i = 0; i < a.data.size(); ++i) squared += (a.data[i] - b.data[i]) * (a.data[i] - b.data[i]);
    }
    return std::sqrt(squared);
  }

  // ---- groups: residual stream, hidden units, channels ----
  Matrix best_map(const AxisGroup& group, const Matrix& cross) const {
    if (group.permutation_only || !options_.rotate) return permutation_matrix(best_assignment(cross));
    Matrix map = group.centred ? centred_procrustes(cross) : procrustes(cross);
    snap_to_permutation(map);
    return map;
  }
  void set_map(const AxisGroup& group, const Matrix& map) {
    for (const AxisPlace& place : group.constants) maps_[{place.value, place.axis}] = map;
  }
  std::string kind_of(const AxisGroup& group) const { return group.permutation_only ? "hidden units" : "stream"; }
  std::string name_of(const AxisGroup& group) const { return group.constants.front().value->name(); }

  Matrix weight_cross(const AxisGroup& group) const {
    Matrix cross(group.size, group.size);
    for (const AxisPlace& place : group.constants) {
      if (own_.count(place.value) == 0) continue;
      cross = sum(cross, cross_gram(transformed(place.value, place.axis), theirs_.at(place.value), place.axis));
    }
    return cross;
  }

  HeadCross weight_cross(const HeadSite& site) const {
    const auto columns = [&](const Linear& linear) {
      const int axis = linear.stored_out_in ? 0 : 1;
      Matrix cross = cross_gram(transformed(linear.weight, axis), theirs_.at(linear.weight), axis);
      if (linear.bias == nullptr || own_.count(linear.bias) == 0) return cross;
      const int last = static_cast<int>(own_.at(linear.bias).dims.size()) - 1;
      return sum(cross, cross_gram(transformed(linear.bias, last), theirs_.at(linear.bias), last));
    };
    const Linear& out = *site.attention.out;
    const int in = out.stored_out_in ? 1 : 0;
    return {columns(*site.attention.q.linear), columns(*site.attention.k.linear), columns(*site.attention.v.linear),
            cross_gram(transformed(out.weight, in), theirs_.at(out.weight), in)};
  }

  // Without data there are two places to begin at: what one group is matched by depends on the others.
  void align_by_weights() {
    descend(false);
    if (options_.data != nullptr || sites_.empty()) return;
    const double found = distance();
    AxisMaps maps = std::move(maps_);
    std::vector<MergeLayer> layers = std::move(layers_);
    maps_.clear();
    layers_.clear();
    descend(true);
    if (distance() < found * (1 - 1e-6)) return;
    maps_ = std::move(maps);
    layers_ = std::move(layers);
  }

  void descend(bool heads_first) {
    double before = distance();
    for (int sweep = 0; sweep < std::max(options_.sweeps, 1); ++sweep) {
      const bool described = sweep == 0 && options_.data == nullptr;
      if (heads_first) move_heads(described);
      for (const AxisGroup& group : groups_) {
        const Matrix cross = weight_cross(group);
        const Matrix map = best_map(group, cross);
        if (described) add_layer(name_of(group), kind_of(group), group, cross, map);
        set_map(group, map);
      }
      if (!heads_first) move_heads(described);
      const double after = distance();
      if (before - after <= 1e-7 * before) break;
      before = after;
    }
  }
  void move_heads(bool described) {
    for (const HeadSite& site : sites_) {
      HeadMaps found = best_heads(site, weight_cross(site));
      if (described) layers_.push_back({site.name, "heads", found.before, found.after, 0});
      for (auto& entry : found.maps) maps_[entry.first] = std::move(entry.second);
    }
  }

  void add_layer(const std::string& name, const std::string& kind, const AxisGroup& group, const Matrix& cross,
                 const Matrix& map) {
    double size = 0;
    for (const AxisPlace& place : group.constants) {
      if (own_.count(place.value) == 0) continue;
      double a = 0, b = 0;
      for (const double x : own_.at(place.value).data) a += x * x;
      for (const double x : theirs_.at(place.value).data) b += x * x;
      size += std::sqrt(a * b);
    }
    if (size <= 0) size = 1;
    layers_.push_back({name, kind, diagonal(cross) / size, trace(map, cross) / size, 0});
  }

  // ---- activations ----
  // Names of a value in both models, and where its channels are.
  struct Tap {
    std::string first, second;
    int axis = -1;
  };
  std::optional<Tap> tap(const Value* value, int axis) const {
    const auto other = map_.second_of.find(value);
    if (other == map_.second_of.end()) return {};
    return Tap{value->name(), other->second->name(), axis};
  }
  std::vector<Tap> group_taps(const AxisGroup& group) const {
    std::vector<Tap> taps;
    for (const AxisPlace& place : group.values) {
      if (!is_feature(*place.value)) continue;
      if (auto found = tap(place.value, place.axis)) taps.push_back(std::move(*found));
    }
    return taps;
  }

  Result<std::map<std::string, CrossStatistics>> collect(const std::vector<Tap>& taps) const {
    std::map<std::string, CrossStatistics> statistics;
    std::set<std::string> first, second;
    for (const Tap& each : taps) {
      first.insert(each.first);
      second.insert(each.second);
      statistics[each.first] = {};
    }
    OF_TRY(for_each_batch(model_, {first.begin(), first.end()}, anchor_, {second.begin(), second.end()}, *options_.data,
                          [&](std::size_t, const Taps& a, const Taps& b, const RowMask& mask) -> Status {
                            return side_by_side(taps.size(), [&](std::size_t i) -> Status {
                              OF_ASSIGN(const RowView x, RowView::of(a.at(taps[i].first), mask, taps[i].axis));
                              OF_ASSIGN(const RowView y, RowView::of(b.at(taps[i].second), mask, taps[i].axis));
                              statistics.at(taps[i].first).add(x, y);
                              return {};
                            });
                          }));
    return statistics;
  }

  std::vector<Tap> all_taps() const {
    std::map<std::string, Tap> taps;
    for (const AxisGroup& group : groups_) {
      for (Tap& each : group_taps(group)) taps.emplace(each.first, each);
    }
    for (const HeadSite& site : sites_) {
      for (const Projection* projection : {&site.attention.q, &site.attention.k, &site.attention.v}) {
        if (auto found = tap(projection->linear->output, -1)) taps.emplace(found->first, *found);
      }
    }
    std::vector<Tap> list;
    for (auto& entry : taps) list.push_back(entry.second);
    return list;
  }

  Status align_by_activations() {
    OF_ASSIGN(const auto statistics, collect(all_taps()));
    for (const AxisGroup& group : groups_) {
      const std::vector<Tap> taps = group_taps(group);
      if (taps.empty()) continue;
      Matrix cross(group.size, group.size);
      for (const Tap& each : taps) {
        const CrossStatistics& entry = statistics.at(each.first);
        const bool assigned = group.permutation_only || !options_.rotate;
        cross = sum(cross, assigned ? entry.correlation() : entry.scaled(),
                    1 / static_cast<double>(taps.size() * static_cast<std::size_t>(assigned ? group.size : 1)));
      }
      const Matrix map = best_map(group, cross);
      layers_.push_back({name_of(group), kind_of(group), diagonal(cross), trace(map, cross), 0});
      set_map(group, map);
    }
    for (const HeadSite& site : sites_) {
      const auto cross = [&](const Projection& projection) {
        const auto found = statistics.find(projection.linear->output->name());
        return found == statistics.end() ? Matrix() : found->second.centred();
      };
      HeadMaps found =
          best_heads(site, {cross(site.attention.q), cross(site.attention.k), cross(site.attention.v), Matrix()});
      layers_.push_back({site.name, "heads", found.before, found.after, 0});
      for (auto& entry : found.maps) maps_[entry.first] = std::move(entry.second);
    }
    return {};
  }

  Result<std::unique_ptr<Model>> written() const {
    std::unique_ptr<Model> result = model_.clone();
    std::set<const Value*> changed;
    for (const auto& entry : maps_) changed.insert(entry.first.first);
    std::map<std::string, const Value*> by_name;  // in the order of names, not of addresses
    for (const Value* value : changed) by_name[value->name()] = value;
    for (const auto& entry : by_name) {
      if (own_.count(entry.second) == 0) continue;
      const Weight weight = transformed(entry.second);
      const Tensor& old = *parameter(entry.second);
      OF_ASSIGN(Tensor made, from_doubles(old.dtype(), old.dims(), weight.data));
      replace_constant(*result->graph().find(entry.first), std::move(made));
    }
    return result;
  }

  Model& model_;
  Model& anchor_;
  const AlignmentOptions& options_;
  Correspondence map_;
  std::vector<AxisGroup> groups_;
  std::vector<HeadSite> sites_;
  std::map<const Value*, Weight> own_, theirs_;  // by the model's constants
  AxisMaps maps_;
  std::vector<MergeLayer> layers_;
};

}  // namespace

void unshare_vectors(Graph& graph) {
  for (Value* value : graph.values()) {
    const Tensor* tensor = value->constant();
    if (tensor == nullptr || !is_float(tensor->dtype()) || tensor->rank() > 1 || tensor->size() < 2) continue;
    const std::vector<Use> uses = value->uses();
    for (std::size_t i = 1; i < uses.size(); ++i) {
      if (uses[i].node == nullptr) continue;
      Value* copy = graph.add_initializer(value->name(), *tensor);
      uses[i].node->graph()->set_input(*uses[i].node, static_cast<std::size_t>(uses[i].index), copy);
    }
  }
}

Result<Alignment> align_model(Model& model, Model& anchor, const AlignmentOptions& options) {
  unshare_vectors(model.graph());
  unshare_vectors(anchor.graph());
  return Aligner(model, anchor, options).run();
}

}  // namespace onnxfold
