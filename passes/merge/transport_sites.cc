#include "passes/merge/transport_sites.h"

#include <cmath>
#include <set>
#include <string>

#include "analysis/align/heads.h"
#include "analysis/structure/head_columns.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

std::vector<std::int64_t> range(std::int64_t begin, std::int64_t count) {
  std::vector<std::int64_t> columns;
  for (std::int64_t i = 0; i < count; ++i) columns.push_back(begin + i);
  return columns;
}

bool fits(const Projection& projection) {
  return projection.linear && projection.heads > 0 && projection.width > 0 && projection.head_stride > 0 &&
         head_columns(projection).back() < projection.linear->out;
}

bool masks_by_head(const Attention& attention) {
  for (const Value* mask : attention.masks) {
    if (!mask->type().shape) return true;
    const auto& dims = *mask->type().shape;
    if (dims.size() >= 3 && !(dims[dims.size() - 3].known() && *dims[dims.size() - 3].value == 1)) return true;
  }
  return false;
}

// Products of q, k, v and out are Linears whose columns can be told.
bool understood(const Attention& attention) {
  return attention.out && attention.packed_weight == nullptr && attention.packed_bias == nullptr &&
         attention.heads > 0 && attention.kv_heads > 0 && attention.heads % attention.kv_heads == 0 &&
         fits(attention.q) && fits(attention.k) && fits(attention.v) && !keeps_cache(attention) &&
         self_contained(attention) && attention.gate == nullptr && !attention.inner_norm &&
         attention.out->in == attention.heads * attention.v.width;
}

// Follows values forwards to the place where one position is taken out of many (the class token before the head).
class PositionFinder {
 public:
  explicit PositionFinder(const std::vector<Attention>& attentions) {
    for (const Attention& attention : attentions) {
      for (const Node* node : attention.nodes) {
        if (!linear_at(*node)) mixing_.insert(node);
      }
      // A query decides about its own position alone.
      if (attention.q.linear && attention.out && understood(attention)) {
        behind_[attention.q.linear->output] = attention.out->input;
      }
    }
  }

  std::optional<std::int64_t> of(const Value* value) {
    std::optional<std::int64_t> only;
    std::set<const Value*> seen;
    std::vector<const Value*> pending = {value};
    while (!pending.empty()) {
      const Value* next = pending.back();
      pending.pop_back();
      if (!seen.insert(next).second) continue;
      if (const auto query = behind_.find(next); query != behind_.end() && next == value) {
        pending.push_back(query->second);
        continue;
      }
      for (const Use& use : next->uses()) {
        const auto taken = use.node == nullptr ? std::nullopt : taken_position(*use.node, use.index);
        const bool passes = use.node != nullptr && !taken && keeps_positions(*use.node);
        if ((!taken && !passes) || (taken && only && *only != *taken)) return {};
        if (taken) only = taken;
        if (passes) pending.push_back(use.node->output());
      }
    }
    return only;
  }

 private:
  static std::optional<std::int64_t> taken_position(const Node& node, int index) {
    if (!node.is("Gather") || index != 0 || node.attr_int("axis", 0) != 1) return {};
    const auto indices = int_constants(node.input(1));
    if (!indices || indices->size() != 1 || indices->front() < 0) return {};
    return indices->front();
  }
  bool keeps_positions(const Node& node) const {
    if (mixing_.count(&node) != 0 || node.outputs().size() != 1 || !node.subgraphs().empty()) return false;
    static const std::set<std::string> kOthers = {"Transpose", "Reshape", "Concat",  "Slice",     "Split", "Softmax",
                                                  "Conv",      "Flatten", "Squeeze", "Unsqueeze", "Gather"};
    if (kOthers.count(std::string(node.op_type())) != 0) return false;
    if (node.op_type().rfind("Reduce", 0) == 0) {
      const auto axes = node.attr_ints("axes")     ? node.attr_ints("axes")
                        : node.input(1) != nullptr ? int_constants(node.input(1))
                                                   : std::nullopt;
      return axes && axes->size() == 1 && (axes->front() == -1 || axes->front() == 2);
    }
    return node.output()->rank() == 3;
  }

  std::set<const Node*> mixing_;
  std::map<const Value*, const Value*> behind_;
};

void find_positions(const std::vector<Attention>& attentions, std::vector<TransportSite>& sites) {
  PositionFinder finder(attentions);
  for (TransportSite& site : sites) {
    for (SitePart& part : site.parts) {
      const bool tokens = part.axis == -1 && part.second->rank() == 3;
      if (tokens) part.position = finder.of(part.second);
    }
  }
}

class Finder {
 public:
  Finder(const Graph& model, const Model& anchor, const Correspondence& map, const AxisGroups& groups,
         const TransportOptions& options)
      : model_(model), anchor_(anchor.graph()), map_(map), groups_(groups), options_(options), rotary_(anchor) {}

  Result<TransportSites> run() {
    for (const AxisGroup& group : groups_.groups) {
      for (const AxisPlace& place : group.values) free_.insert({place.value, place.axis});
    }
    OF_TRY(find_heads());
    find_gates();
    for (const Node* node : anchor_.nodes()) visit(*node);
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

  SitePart part_of(const Linear& linear, std::vector<std::int64_t> first, std::vector<std::int64_t> second) const {
    return {linear.product, partner(linear)->output, linear.output, -1, std::move(first), std::move(second), {}};
  }
  std::size_t add(TransportSite site) {
    found_.sites.push_back(std::move(site));
    return found_.sites.size() - 1;
  }

  // ---- attention ----
  Status find_heads() {
    std::map<const Node*, Attention> others;
    for (Attention& attention : find_attentions(model_)) {
      if (understood(attention)) others.emplace(attention.out->product, std::move(attention));
    }
    for (const Attention& attention : groups_.attentions) {
      if (!understood(attention)) continue;
      const auto out = partner(*attention.out);
      const auto other = out ? others.find(out->product) : others.end();
      if (other == others.end()) continue;
      if (taken_.count(attention.q.linear->weight) != 0) continue;  // layers that share weights
      for (const Projection* each : {&attention.q, &attention.k, &attention.v}) taken_.insert(each->linear->weight);
      OF_TRY(add_heads(other->second, attention));
      found_.attentions.push_back(attention);
    }
    return {};
  }

  Status add_heads(const Attention& a, const Attention& b) {
    TransportSite base;
    base.name = b.out->product->label();
    base.attention = attentions_++;
    base.first_heads = a.kv_heads;
    base.second_heads = b.kv_heads;
    const auto normed_together = [](const Projection& each) { return each.norm && each.norm->width != each.width; };
    base.fixed_heads = masks_by_head(b) || normed_together(b.q) || normed_together(b.k) || normed_together(b.v);
    base.whole_heads = b.rotary || b.q.norm || b.k.norm;
    if (base.whole_heads) {
      const auto rotary = b.rotary ? rotary_.of(b) : std::nullopt;
      base.turns = score_parts(b, true, rotary ? &*rotary : nullptr);
    }
    if (a.heads / a.kv_heads != b.heads / b.kv_heads)
      return refuse(b, "they share keys among different numbers of queries");
    if (base.fixed_heads && a.kv_heads != b.kv_heads) return refuse(b, "masks tell heads apart whose numbers differ");
    if (base.whole_heads && a.q.width != b.q.width)
      return refuse(b, "rotary embedding or norms hold elements of heads whose widths differ");
    double factor = 1;
    if (a.q.width != b.q.width) {
      if (!a.scale || !b.scale || *a.scale * *b.scale <= 0) return refuse(b, "the scale of the scores is not known");
      const double wide = *a.scale * static_cast<double>(a.q.width);
      factor = std::sqrt(wide / (*b.scale * static_cast<double>(b.q.width)));
      for (const Node* node : b.nodes) {
        if (linear_at(*node)) continue;
        for (const Value* input : node->inputs()) {
          if (parameter(input) != nullptr) found_.kept.push_back(input);
        }
      }
    }
    const std::size_t before = found_.sites.size();
    OF_TRY(add_scores(a, b, base, factor));
    if (b.heads > b.kv_heads && !base.fixed_heads) add_grouped(a, b, base, before);
    add_values(a, b, base);
    return {};
  }
  static Status refuse(const Attention& attention, const std::string& why) {
    return fail(Code::kUnsupported,
                "attention before '" + attention.out->product->label() + "' cannot be transported: " + why);
  }

  void add_grouped(const Attention& a, const Attention& b, const TransportSite& base, std::size_t first_site) {
    GroupedQueries grouped;
    grouped.attention = base.attention;
    grouped.queries = part_of(*b.q.linear, head_columns(a.q), head_columns(b.q));
    grouped.keys = part_of(*b.k.linear, head_columns(a.k), head_columns(b.k));
    grouped.groups = {a.kv_heads, b.kv_heads, b.heads / b.kv_heads, base.whole_heads, base.turns};
    grouped.projection = a.q;
    grouped.out = b.out->product;
    const std::vector<SitePart>& parts = found_.sites[first_site].parts;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].maker == b.q.linear->product &&
          grouped.parts.size() < static_cast<std::size_t>(grouped.groups.repeats))
        grouped.parts.emplace_back(first_site, i);
    }
    found_.grouped.push_back(std::move(grouped));
  }
  Status add_scores(const Attention& a, const Attention& b, const TransportSite& base, double factor) {
    using Scores = TransportOptions::Scores;
    if (options_.scores == Scores::kJoint && !base.whole_heads) return add_joint(a, b, base, factor);
    if (options_.scores == Scores::kSeparate && !base.whole_heads) {
      add_projection(a.q, b.q, base, "queries", factor);
      add_projection(a.k, b.k, base, "keys", factor);
      return {};
    }
    TransportSite site = base;
    site.kind = "queries and keys";
    const std::int64_t repeats = b.heads / b.kv_heads;
    for (std::int64_t r = 0; r < repeats; ++r) {
      site.parts.push_back(part_of(*b.q.linear, head_columns(a.q, r, repeats), head_columns(b.q, r, repeats)));
    }
    site.parts.push_back(part_of(*b.k.linear, head_columns(a.k), head_columns(b.k)));
    const std::size_t at = add(std::move(site));
    found_.columns[b.q.linear->product].push_back({at, 0, head_columns(a.q), head_columns(b.q), repeats, factor});
    found_.columns[b.k.linear->product].push_back({at, 0, head_columns(a.k), head_columns(b.k), 1, factor});
    return {};
  }
  void add_projection(const Projection& a, const Projection& b, const TransportSite& base, const char* kind,
                      double factor) {
    TransportSite site = base;
    site.kind = kind;
    site.first_heads = a.heads;
    site.second_heads = b.heads;
    // Queries that share a key keep to heads by themselves.
    if (b.heads != base.second_heads) site.attention = -1;
    site.parts.push_back(part_of(*b.linear, head_columns(a), head_columns(b)));
    const std::size_t at = add(std::move(site));
    found_.columns[b.linear->product].push_back({at, 0, head_columns(a), head_columns(b), 1, factor});
  }
  Status add_joint(const Attention& a, const Attention& b, const TransportSite& base, double factor) {
    if (b.q.linear->input != b.k.linear->input) return refuse(b, "joint maps need queries and keys of one value");
    if (options_.heads_apart) return refuse(b, "joint maps cross heads; choose heads=cross");
    TransportSite site = base;
    site.kind = "queries and keys";
    site.joint = true;
    site.first_heads = site.second_heads = 0;
    site.parts.push_back(part_of(*b.q.linear, head_columns(a.q), head_columns(b.q)));
    site.parts.push_back(part_of(*b.k.linear, head_columns(a.k), head_columns(b.k)));
    const std::size_t at = add(std::move(site));
    const std::vector<std::int64_t> q = head_columns(b.q);
    found_.columns[b.q.linear->product].push_back({at, 0, head_columns(a.q), q, 1, factor});
    const auto offset = static_cast<std::int64_t>(q.size());
    found_.columns[b.k.linear->product].push_back({at, offset, head_columns(a.k), head_columns(b.k), 1, factor});
    return {};
  }
  void add_values(const Attention& a, const Attention& b, const TransportSite& base) {
    TransportSite site = base;
    site.kind = "values";
    site.whole_heads = b.v.norm.has_value();
    site.turns.clear();
    site.parts.push_back(part_of(*b.v.linear, head_columns(a.v), head_columns(b.v)));
    const std::size_t at = add(std::move(site));
    found_.columns[b.v.linear->product].push_back({at, 0, head_columns(a.v), head_columns(b.v), 1, 1});
    SiteColumns context{at, 0, {}, {}, b.heads / b.kv_heads, 1};
    context.first = range(0, a.out->in);
    context.second = range(0, b.out->in);
    found_.inputs[b.out->product] = std::move(context);
  }

  // ---- gated feed-forward layers: one map for gate and up ----
  void find_gates() {
    std::map<const Node*, FeedForward> others;
    for (FeedForward& layer : find_feed_forwards(model_)) others.emplace(layer.down.product, std::move(layer));
    for (const FeedForward& layer : find_feed_forwards(anchor_)) {
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
      return b.packed() ? range(offset, hidden) : std::vector<std::int64_t>();
    };
    const auto gate0 = part(a.gate_offset, a.hidden), gate1 = part(b.gate_offset, b.hidden);
    const auto up0 = part(a.up_offset, a.hidden), up1 = part(b.up_offset, b.hidden);
    site.parts = {part_of(*b.gate, gate0, gate1), part_of(b.up, up0, up1)};
    const std::size_t at = add(std::move(site));
    found_.columns[b.gate->product].push_back({at, 0, gate0, gate1, 1, 1});
    found_.columns[b.up.product].push_back({at, 0, up0, up1, 1, 1});
    if (!b.packed()) return;
    SiteColumns hidden{at, 0, {}, {}, 1, 1};
    hidden.first = range(0, a.hidden);
    hidden.second = range(0, b.hidden);
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
    const std::size_t at = add(std::move(site));
    found_.columns[maker].push_back({at, 0, {}, {}, 1, 1});
  }

  const Graph& model_;
  const Graph& anchor_;
  const Correspondence& map_;
  const AxisGroups& groups_;
  const TransportOptions& options_;
  RotaryProbe rotary_;
  std::set<std::pair<const Value*, int>> free_;  // axes whose neurons may move
  std::set<const Value*> taken_;
  int attentions_ = 0;
  TransportSites found_;
};

}  // namespace

std::optional<Linear> partner(const Correspondence& map, const Linear& linear) {
  const auto other = map.first_of.find(linear.product->output());
  if (other == map.first_of.end() || other->second->producer() == nullptr) return {};
  return linear_at(*other->second->producer());
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
          range((static_cast<std::int64_t>(group) * repeats + query) * value_width, value_width);
      rows.insert(rows.end(), head.begin(), head.end());
    }
  }
}

Result<TransportSites> find_transport_sites(const Graph& model, const Model& anchor, const Correspondence& map,
                                            const AxisGroups& groups, const TransportOptions& options) {
  return Finder(model, anchor, map, groups, options).run();
}

}  // namespace onnxfold
