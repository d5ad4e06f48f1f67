#include "passes/merge/transport_sites.h"

#include <numeric>
#include <set>
#include <string>

#include "analysis/structure/head_columns.h"
#include "passes/merge/attention_sites.h"
#include "passes/merge/site_positions.h"

namespace onnxfold {
namespace {

class Finder {
 public:
  Finder(const Graph& model, const Model& anchor, const Correspondence& map, const AxisGroups& groups,
         const TransportOptions& options)
      : model_(model), anchor_(anchor), map_(map), groups_(groups), options_(options) {}

  Result<TransportSites> run() {
    for (const AxisGroup& group : groups_.groups) {
      for (const AxisPlace& place : group.values) free_.insert({place.value, place.axis});
    }
    OF_TRY(add_attention_sites(model_, anchor_, map_, groups_.attentions, options_, found_));
    find_gates();
    for (const Node* node : anchor_.graph().nodes()) visit(*node);
    if (!options_.all_positions) find_positions(groups_.attentions, found_.sites);
    return std::move(found_);
  }

 private:
  // What stands in the other model where `value` stands in the anchor.
  Value* partner(const Value* value) const {
    const auto found = map_.first_of.find(value);
    return found == map_.first_of.end() ? nullptr : found->second;
  }
  std::optional<Linear> partner(const Linear& linear) const { return onnxfold::partner(map_, linear); }

  bool last_is_free(const Value* value) const { return free_.count({value, value->rank().value_or(0) - 1}) != 0; }

  // ---- gated feed-forward layers: one map for gate and up ----
  void find_gates() {
    std::map<const Node*, FeedForward> others;
    for (FeedForward& layer : find_feed_forwards(model_)) others.emplace(layer.down.product, std::move(layer));
    for (const FeedForward& layer : find_feed_forwards(anchor_.graph())) {
      if (!layer.gated() || !layer.gate || layer.inner_norm || layer.hidden <= 0) continue;
      const auto down = partner(layer.down);
      const auto other = down ? others.find(down->product) : others.end();
      if (other == others.end() || !other->second.gate || other->second.packed() != layer.packed()) continue;
      if (!layer.packed() && !last_is_free(layer.up.output)) continue;
      add_gate(other->second, layer);
    }
  }
  void add_gate(const FeedForward& a, const FeedForward& b) {
    TransportSite site;
    site.name = b.up.product->label();
    site.kind = "hidden units";
    // A Linear of its own is mapped whole: then its map flows on.
    const auto part = [&](std::int64_t offset, std::int64_t hidden) {
      return b.packed() ? consecutive(offset, hidden) : std::vector<std::int64_t>();
    };
    const auto gate0 = part(a.gate_offset, a.hidden), gate1 = part(b.gate_offset, b.hidden);
    const auto up0 = part(a.up_offset, a.hidden), up1 = part(b.up_offset, b.hidden);
    site.parts = {part_of(map_, *b.gate, gate0, gate1), part_of(map_, b.up, up0, up1)};
    const std::size_t at = add_site(found_, std::move(site));
    found_.columns[b.gate->product].push_back({at, 0, gate0, gate1, 1, 1});
    found_.columns[b.up.product].push_back({at, 0, up0, up1, 1, 1});
    if (!b.packed()) return;
    SiteColumns hidden{at, 0, {}, {}, 1, 1};
    hidden.first = consecutive(0, a.hidden);
    hidden.second = consecutive(0, b.hidden);
    found_.inputs[b.down.product] = std::move(hidden);
  }

  // ---- everything else ----
  void visit(const Node& node) {
    if (found_.columns.count(&node) != 0) return;
    if (const auto linear = linear_at(node)) {
      if (last_is_free(linear->output) && partner(*linear)) {
        add_whole({&node, partner(*linear)->output, linear->output, -1, {}, {}, {}}, "Linear");
      }
      return;
    }
    const bool table = node.is("Gather") && parameter(node.input(0)) != nullptr && node.attr_int("axis", 0) == 0 &&
                       is_float(parameter(node.input(0))->dtype());
    const bool conv = node.is("Conv") && node.attr_int("group", 1) == 1;
    if (!table && !conv) return;
    const int axis = table ? node.output()->rank().value_or(0) - 1 : 1;
    Value* other = partner(node.output());
    if (free_.count({node.output(), axis}) == 0 || other == nullptr) return;
    add_whole({&node, other, node.output(), axis, {}, {}, {}}, table ? "embedding" : "convolution");
  }
  void add_whole(SitePart part, const char* kind) {
    TransportSite site;
    site.name = part.maker->label();
    site.kind = kind;
    const Node* maker = part.maker;
    site.parts.push_back(std::move(part));
    const std::size_t at = add_site(found_, std::move(site));
    found_.columns[maker].push_back({at, 0, {}, {}, 1, 1});
  }

  const Graph& model_;
  const Model& anchor_;
  const Correspondence& map_;
  const AxisGroups& groups_;
  const TransportOptions& options_;
  std::set<std::pair<const Value*, int>> free_;  // axes whose neurons may move
  TransportSites found_;
};

}  // namespace

std::vector<std::int64_t> consecutive(std::int64_t begin, std::int64_t count) {
  std::vector<std::int64_t> columns(static_cast<std::size_t>(count));
  std::iota(columns.begin(), columns.end(), begin);
  return columns;
}

std::optional<Linear> partner(const Correspondence& map, const Linear& linear) {
  const auto other = map.first_of.find(linear.product->output());
  if (other == map.first_of.end() || other->second->producer() == nullptr) return {};
  return linear_at(*other->second->producer());
}

SitePart part_of(const Correspondence& map, const Linear& linear, std::vector<std::int64_t> first,
                 std::vector<std::int64_t> second) {
  return {linear.product, partner(map, linear)->output, linear.output, -1, std::move(first), std::move(second), {}};
}

std::size_t add_site(TransportSites& sites, TransportSite site) {
  sites.sites.push_back(std::move(site));
  return sites.sites.size() - 1;
}

void take_order(TransportSites& sites, GroupedQueries& queries, const std::vector<std::vector<std::int64_t>>& order) {
  queries.ordered = true;
  const std::int64_t repeats = queries.groups.repeats, width = queries.projection.width;
  const std::vector<std::int64_t> columns = head_columns(queries.projection);
  std::vector<std::int64_t> all;
  std::vector<std::vector<std::int64_t>> single(static_cast<std::size_t>(repeats));
  for (std::size_t head = 0; head < static_cast<std::size_t>(queries.groups.first * repeats); ++head) {
    const std::size_t group = head / static_cast<std::size_t>(repeats),
                      place = head % static_cast<std::size_t>(repeats);
    const std::int64_t from = static_cast<std::int64_t>(group) * repeats + order[group][place];
    const auto begin = columns.begin() + from * width;
    all.insert(all.end(), begin, begin + width);
    single[place].insert(single[place].end(), begin, begin + width);
  }
  const Node* product = queries.queries.maker;
  for (std::size_t i = 0; i < queries.parts.size(); ++i) {
    const auto& [site, part] = queries.parts[i];
    sites.sites[site].parts[part].first_columns = queries.parts.size() == 1 ? all : single[i];
  }
  for (SiteColumns& each : sites.columns[product]) {
    if (each.first == columns) each.first = all;
  }
  const auto context = sites.inputs.find(queries.out);
  if (context == sites.inputs.end()) return;
  std::vector<std::int64_t>& rows = context->second.first;
  const std::int64_t value_width = static_cast<std::int64_t>(rows.size()) / (queries.groups.first * repeats);
  rows.clear();
  for (std::size_t group = 0; group < order.size(); ++group) {
    for (const std::int64_t query : order[group]) {
      const std::vector<std::int64_t> head =
          consecutive((static_cast<std::int64_t>(group) * repeats + query) * value_width, value_width);
      rows.insert(rows.end(), head.begin(), head.end());
    }
  }
}

Result<TransportSites> find_transport_sites(const Graph& model, const Model& anchor, const Correspondence& map,
                                            const AxisGroups& groups, const TransportOptions& options) {
  return Finder(model, anchor, map, groups, options).run();
}

}  // namespace onnxfold
