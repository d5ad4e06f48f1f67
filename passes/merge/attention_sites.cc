#include "passes/merge/attention_sites.h"

#include <cmath>
#include <set>

#include "analysis/structure/head_columns.h"

namespace onnxfold {
namespace {

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

class AttentionSites {
 public:
  AttentionSites(const Graph& model, const Model& anchor, const Correspondence& map,
                 const std::vector<Attention>& attentions, const TransportOptions& options, TransportSites& found)
      : model_(model), map_(map), attentions_(attentions), options_(options), rotary_(anchor), found_(found) {}

  Status run() {
    std::map<const Node*, Attention> others;
    for (Attention& attention : find_attentions(model_)) {
      if (understood(attention)) others.emplace(attention.out->product, std::move(attention));
    }
    for (const Attention& attention : attentions_) {
      if (!understood(attention)) continue;
      const auto out = partner(map_, *attention.out);
      const auto other = out ? others.find(out->product) : others.end();
      if (other == others.end()) continue;
      if (taken_.count(attention.q.linear->weight) != 0) continue;  // layers that share weights
      for (const Projection* each : {&attention.q, &attention.k, &attention.v}) taken_.insert(each->linear->weight);
      OF_TRY(add_heads(other->second, attention));
      found_.attentions.push_back(attention);
    }
    return {};
  }

 private:
  Status add_heads(const Attention& a, const Attention& b) {
    const TransportSite base = heads_of(a, b);
    OF_TRY(check_heads(a, b, base));
    double factor = 1;
    if (a.q.width != b.q.width) {
      OF_ASSIGN(factor, score_factor(a, b));
      keep_scale(b);
    }
    const std::size_t before = found_.sites.size();
    OF_TRY(add_scores(a, b, base, factor));
    if (b.heads > b.kv_heads && !base.fixed_heads) add_grouped(a, b, base, before);
    add_values(a, b, base);
    return {};
  }

  // What all sites of one attention share.
  TransportSite heads_of(const Attention& a, const Attention& b) {
    TransportSite base;
    base.name = b.out->product->label();
    base.attention = added_++;
    base.first_heads = a.kv_heads;
    base.second_heads = b.kv_heads;
    const auto normed_together = [](const Projection& each) { return each.norm && each.norm->width != each.width; };
    base.fixed_heads = masks_by_head(b) || normed_together(b.q) || normed_together(b.k) || normed_together(b.v);
    base.whole_heads = b.rotary || b.q.norm || b.k.norm;
    if (base.whole_heads) {
      const auto rotary = b.rotary ? rotary_.of(b) : std::nullopt;
      base.turns = score_parts(b, true, rotary ? &*rotary : nullptr);
    }
    return base;
  }
  static Status check_heads(const Attention& a, const Attention& b, const TransportSite& base) {
    if (a.heads / a.kv_heads != b.heads / b.kv_heads)
      return refuse(b, "they share keys among different numbers of queries");
    if (base.fixed_heads && a.kv_heads != b.kv_heads) return refuse(b, "masks tell heads apart whose numbers differ");
    if (base.whole_heads && a.q.width != b.q.width)
      return refuse(b, "rotary embedding or norms hold elements of heads whose widths differ");
    return {};
  }
  // Queries and keys of another width leave scores another size: what they are multiplied by to have the anchor's.
  static Result<double> score_factor(const Attention& a, const Attention& b) {
    if (!a.scale || !b.scale || *a.scale * *b.scale <= 0) return refuse(b, "the scale of the scores is not known");
    const double wide = *a.scale * static_cast<double>(a.q.width);
    return std::sqrt(wide / (*b.scale * static_cast<double>(b.q.width)));
  }
  void keep_scale(const Attention& attention) {
    for (const Node* node : attention.nodes) {
      if (linear_at(*node)) continue;
      for (const Value* input : node->inputs()) {
        if (parameter(input) != nullptr) found_.kept.push_back(input);
      }
    }
  }
  static tl::unexpected<Error> refuse(const Attention& attention, const std::string& why) {
    return fail(Code::kUnsupported,
                "attention before '" + attention.out->product->label() + "' cannot be transported: " + why);
  }

  void add_grouped(const Attention& a, const Attention& b, const TransportSite& base, std::size_t first_site) {
    GroupedQueries grouped;
    grouped.attention = base.attention;
    grouped.queries = part_of(map_, *b.q.linear, head_columns(a.q), head_columns(b.q));
    grouped.keys = part_of(map_, *b.k.linear, head_columns(a.k), head_columns(b.k));
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
      site.parts.push_back(part_of(map_, *b.q.linear, head_columns(a.q, r, repeats), head_columns(b.q, r, repeats)));
    }
    site.parts.push_back(part_of(map_, *b.k.linear, head_columns(a.k), head_columns(b.k)));
    const std::size_t at = add_site(found_, std::move(site));
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
    site.parts.push_back(part_of(map_, *b.linear, head_columns(a), head_columns(b)));
    const std::size_t at = add_site(found_, std::move(site));
    found_.columns[b.linear->product].push_back({at, 0, head_columns(a), head_columns(b), 1, factor});
  }
  Status add_joint(const Attention& a, const Attention& b, const TransportSite& base, double factor) {
    if (b.q.linear->input != b.k.linear->input) return refuse(b, "joint maps need queries and keys of one value");
    if (options_.heads_apart) return refuse(b, "joint maps cross heads; choose heads=cross");
    TransportSite site = base;
    site.kind = "queries and keys";
    site.joint = true;
    site.first_heads = site.second_heads = 0;
    site.parts.push_back(part_of(map_, *b.q.linear, head_columns(a.q), head_columns(b.q)));
    site.parts.push_back(part_of(map_, *b.k.linear, head_columns(a.k), head_columns(b.k)));
    const std::size_t at = add_site(found_, std::move(site));
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
    site.parts.push_back(part_of(map_, *b.v.linear, head_columns(a.v), head_columns(b.v)));
    const std::size_t at = add_site(found_, std::move(site));
    found_.columns[b.v.linear->product].push_back({at, 0, head_columns(a.v), head_columns(b.v), 1, 1});
    SiteColumns context{at, 0, {}, {}, b.heads / b.kv_heads, 1};
    context.first = consecutive(0, a.out->in);
    context.second = consecutive(0, b.out->in);
    found_.inputs[b.out->product] = std::move(context);
  }

  const Graph& model_;
  const Correspondence& map_;
  const std::vector<Attention>& attentions_;
  const TransportOptions& options_;
  RotaryProbe rotary_;
  TransportSites& found_;
  std::set<const Value*> taken_;
  int added_ = 0;
};

}  // namespace

bool understood(const Attention& attention) {
  return attention.out && attention.packed_weight == nullptr && attention.packed_bias == nullptr &&
         attention.heads > 0 && attention.kv_heads > 0 && attention.heads % attention.kv_heads == 0 &&
         fits(attention.q) && fits(attention.k) && fits(attention.v) && !keeps_cache(attention) &&
         self_contained(attention) && attention.gate == nullptr && !attention.inner_norm &&
         attention.out->in == attention.heads * attention.v.width;
}

Status add_attention_sites(const Graph& model, const Model& anchor, const Correspondence& map,
                           const std::vector<Attention>& attentions, const TransportOptions& options,
                           TransportSites& found) {
  return AttentionSites(model, anchor, map, attentions, options, found).run();
}

}  // namespace onnxfold
