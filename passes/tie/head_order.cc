#include "passes/tie/head_order.h"

#include <algorithm>
#include <map>
#include <optional>

#include "analysis/align/heads.h"
#include "analysis/structure/blocks.h"

namespace onnxfold {
namespace {

bool only_reader(const Value* value) { return value->uses().size() == 1 && value->uses().front().node != nullptr; }

// Constants of the four Linears, each with the axis that holds heads; of packed q, k and v once.
std::vector<std::pair<Value*, int>> places_of(const HeadSite& site) {
  std::vector<std::pair<Value*, int>> places;  // in the order of the graph, not of addresses
  const auto add = [&](Value* value, int axis) {
    const std::pair<Value*, int> place(value, axis);
    if (std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
  };
  for (const Projection* projection : {&site.attention.q, &site.attention.k, &site.attention.v}) {
    const Linear& linear = *projection->linear;
    add(linear.weight, linear.stored_out_in ? 0 : 1);
    if (linear.bias != nullptr) add(linear.bias, std::max(linear.bias->rank().value_or(1) - 1, 0));
  }
  add(site.attention.out->weight, site.attention.out->stored_out_in ? 1 : 0);
  return places;
}

bool movable(const HeadSite& site, bool rotate) {
  const auto places = places_of(site);
  return (site.permutable || rotate) &&
         std::all_of(places.begin(), places.end(), [](const auto& place) { return only_reader(place.first); });
}

bool alike(const HeadSite& a, const HeadSite& b) {
  const auto same = [](const Linear& x, const Linear& y) {
    return x.in == y.in && x.out == y.out && x.stored_out_in == y.stored_out_in;
  };
  const auto same_columns = [&](const Projection& x, const Projection& y) {
    return same(*x.linear, *y.linear) && x.offset == y.offset && x.head_stride == y.head_stride &&
           x.element_stride == y.element_stride && x.width == y.width;
  };
  return a.repeats == b.repeats && a.attention.kv_heads == b.attention.kv_heads &&
         same_columns(a.attention.q, b.attention.q) && same_columns(a.attention.k, b.attention.k) &&
         same_columns(a.attention.v, b.attention.v) && same(*a.attention.out, *b.attention.out);
}

// Of the sublayer at `index` of each block; none when one of them does not fit.
std::optional<std::vector<HeadSite>> layers_at(const BlockView& view, const std::vector<std::size_t>& blocks,
                                               std::size_t index, bool rotate, RotaryProbe& probe) {
  std::vector<HeadSite> layers;
  for (const std::size_t block : blocks) {
    if (index >= view.blocks[block].sublayers.size() || !view.blocks[block].sublayers[index].attention) return {};
    const Attention& attention = *view.blocks[block].sublayers[index].attention;
    const auto rotary = rotate && attention.rotary ? probe.of(attention) : std::nullopt;
    auto site = head_site(attention, rotate, rotary ? &*rotary : nullptr);
    if (!site || !movable(*site, rotate) || (!layers.empty() && !alike(*site, layers[0]))) return {};
    if (!rotate) site->scores.clear(), site->values.clear();  // heads move as a whole
    layers.push_back(std::move(*site));
  }
  return layers;
}

class Aligner {
 public:
  explicit Aligner(Graph& graph) : graph_(graph) {}

  // Moves the heads of `site` toward those of `anchor`. True when something moved.
  Result<bool> align(const HeadSite& site, const HeadSite& anchor) {
    OF_ASSIGN(const HeadCross cross, cross_of(site.attention, anchor.attention));
    const HeadMaps found = best_heads(site, cross);
    if (!(found.after > found.before + 1e-12)) return false;
    bool moved = false;
    for (const auto& [value, axis] : places_of(site)) {
      const auto map = found.maps.find({value, axis});
      if (map == found.maps.end() || is_identity(map->second)) continue;
      OF_TRY(apply(*value, axis, map->second));
      moved = true;
    }
    return moved;
  }

 private:
  static bool is_identity(const Matrix& map) { return map.data == identity_matrix(map.rows).data; }

  // Constants that were replaced go by the new one: sites name the old ones.
  const Value& now(const Value* value) const {
    const auto found = moved_.find(value);
    return found == moved_.end() ? *value : *found->second;
  }

  Result<Matrix> cross_along(const Value* own, const Value* other, int axis) const {
    OF_ASSIGN(const Weight a, weight_of(now(own)));
    OF_ASSIGN(const Weight b, weight_of(now(other)));
    return cross_gram(a, b, axis);
  }

  Result<Matrix> columns(const Projection& own, const Projection& other) const {
    const Linear &a = *own.linear, &b = *other.linear;
    OF_ASSIGN(Matrix cross, cross_along(a.weight, b.weight, a.stored_out_in ? 0 : 1));
    if (a.bias == nullptr || b.bias == nullptr || a.bias->rank() != b.bias->rank()) return cross;
    OF_ASSIGN(const Matrix biases, cross_along(a.bias, b.bias, std::max(a.bias->rank().value_or(1) - 1, 0)));
    return sum(cross, biases);
  }

  Result<HeadCross> cross_of(const Attention& own, const Attention& other) const {
    HeadCross cross;
    OF_ASSIGN(cross.q, columns(own.q, other.q));
    OF_ASSIGN(cross.k, columns(own.k, other.k));
    OF_ASSIGN(cross.v, columns(own.v, other.v));
    OF_ASSIGN(cross.context, cross_along(own.out->weight, other.out->weight, own.out->stored_out_in ? 1 : 0));
    return cross;
  }

  Status apply(Value& value, int axis, const Matrix& map) {
    OF_ASSIGN(const Weight weight, weight_of(value));
    OF_ASSIGN(Tensor made, from_doubles(value.dtype(), weight.dims, mapped(weight, axis, map).data));
    const Use use = value.uses().front();
    Value* fresh = graph_.add_initializer(value.name(), std::move(made));
    graph_.set_input(*use.node, static_cast<std::size_t>(use.index), fresh);
    moved_[&value] = fresh;
    unread_.push_back(&value);
    return {};
  }

 public:
  void erase_unread() {
    for (Value* value : unread_) {
      if (value->producer() != nullptr) {
        graph_.erase(*value->producer());
      } else if (!value->is_graph_input()) {
        graph_.erase(*value);
      }
    }
  }

 private:
  Graph& graph_;
  std::map<const Value*, const Value*> moved_;
  std::vector<Value*> unread_;
};

}  // namespace

Result<int> align_heads(Model& model, const std::vector<std::size_t>& blocks, bool rotate) {
  const BlockView view = find_blocks(model.graph());
  RotaryProbe probe(model);
  std::vector<std::vector<HeadSite>> sites;  // all before anything moves
  for (std::size_t index = 0; index < view.blocks[blocks[0]].sublayers.size(); ++index) {
    if (auto layers = layers_at(view, blocks, index, rotate, probe)) sites.push_back(std::move(*layers));
  }
  Aligner aligner(model.graph());
  int count = 0;
  for (const std::vector<HeadSite>& layers : sites) {
    for (std::size_t l = 1; l < layers.size(); ++l) {
      OF_ASSIGN(const bool moved, aligner.align(layers[l], layers[l - 1]));
      count += moved ? 1 : 0;
    }
  }
  aligner.erase_unread();
  return count;
}

}  // namespace onnxfold
