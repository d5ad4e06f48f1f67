#include "passes/merge/weight_plans.h"

namespace onnxfold {
namespace {

Result<Similarity> weight_similarity(const TransportSite& site, const PartWeights& part_weights) {
  Matrix x, y;
  for (const SitePart& part : site.parts) {
    OF_ASSIGN(const auto features, part_weights(part));
    if (site.joint) {
      append_right(x, features.first);
      append_right(y, features.second);
    } else {
      append_below(x, features.first);
      append_below(y, features.second);
    }
  }
  Similarity similarity = similarity_of(x, y);
  if (site.whole_heads) keep_products(similarity, x, y);
  return similarity;
}

}  // namespace

Status plan_from_weights(std::size_t site, const TransportSites& sites, const TransportOptions& options,
                         const PartWeights& part_weights, SitePlans& plans) {
  std::vector<std::size_t> team;
  const int attention = sites.sites[site].attention;
  for (std::size_t i = 0; i < sites.sites.size(); ++i) {
    const bool together = attention >= 0 && options.heads_apart && sites.sites[i].attention == attention;
    if (i == site || together) team.push_back(i);
  }
  std::vector<Similarity> similarities;
  for (const std::size_t i : team) {
    OF_ASSIGN(Similarity similarity, weight_similarity(sites.sites[i], part_weights));
    similarities.push_back(std::move(similarity));
  }
  return solve_team(team, similarities, sites, options, plans);
}

Status order_queries_by_weights(const Node& product, const PartWeights& part_weights, TransportSites& sites) {
  for (GroupedQueries& each : sites.grouped) {
    const bool reads = each.queries.maker == &product || each.keys.maker == &product || each.out == &product;
    if (each.ordered || !reads) continue;
    each.ordered = true;  // what follows asks for the same Linears
    OF_ASSIGN(const auto queries, part_weights(each.queries));
    OF_ASSIGN(const auto keys, part_weights(each.keys));
    Similarity between_queries = similarity_of(queries.first, queries.second);
    Similarity between_keys = similarity_of(keys.first, keys.second);
    if (each.groups.in_place) {
      keep_products(between_queries, queries.first, queries.second);
      keep_products(between_keys, keys.first, keys.second);
    }
    OF_ASSIGN(const auto order, query_order(between_queries, between_keys, each.groups));
    take_order(sites, each, order);
  }
  return {};
}

}  // namespace onnxfold
