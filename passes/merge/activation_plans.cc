#include "passes/merge/activation_plans.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "analysis/calibrate/dataset.h"
#include "exec/side_by_side.h"
#include "passes/merge/residual_joins.h"

namespace onnxfold {
namespace {

// Rows of a part in one model. Of `position`: only that one on axis 1, where the data has no padding.
Result<RowView> part_rows(const Taps& taps, const RowMask& mask, const Value& value, const SitePart& part) {
  const Datum& datum = taps.at(value.name());
  OF_ASSIGN(RowView rows, RowView::of(datum, mask, part.axis));
  const bool one = part.position && mask.keep.empty() && datum.array.rank() == 3;
  return one ? rows.every(datum.array.dim(1), *part.position) : rows;
}

Status add_batch(const TransportSite& site, const Taps& first, const Taps& second, const RowMask& mask,
                 CrossStatistics& statistics) {
  RowView all_x, all_y;
  for (const SitePart& part : site.parts) {
    OF_ASSIGN(const RowView whole_x, part_rows(first, mask, *part.first, part));
    OF_ASSIGN(const RowView whole_y, part_rows(second, mask, *part.second, part));
    if (whole_x.rows() != whole_y.rows()) {
      return fail(Code::kInvalidArgument, "'" + site.name + "' has different numbers of positions in the models");
    }
    const RowView x = whole_x.columns(part.first_columns), y = whole_y.columns(part.second_columns);
    if (!site.joint) {
      statistics.add(x, y);
      continue;
    }
    all_x = all_x.cols() == 0 ? x : RowView::beside(all_x, x);
    all_y = all_y.cols() == 0 ? y : RowView::beside(all_y, y);
  }
  if (site.joint) statistics.add(all_x, all_y);
  return {};
}

// `similarities` of the sites (correlation), and `magnitudes`.
struct ActivationFeatures {
  std::vector<Similarity> similarities;
  std::map<const Value*, std::vector<double>> magnitudes;
};

// Names of values to run for: of the model's parts, and of the anchor's with those of joins.
std::pair<std::vector<std::string>, std::vector<std::string>> watched(const std::vector<TransportSite>& sites,
                                                                      const std::map<const Value*, int>& joins,
                                                                      bool activations) {
  std::set<std::string> first, second;
  for (const auto& entry : joins) second.insert(entry.first->name());
  for (const TransportSite& site : sites) {
    if (!activations) break;
    for (const SitePart& part : site.parts) {
      first.insert(part.first->name());
      second.insert(part.second->name());
    }
  }
  return {{first.begin(), first.end()}, {second.begin(), second.end()}};
}

Result<ActivationFeatures> activation_features(const Model& model, const Model& anchor,
                                               const std::vector<TransportSite>& sites,
                                               const std::map<const Value*, int>& joins,
                                               const TransportOptions& options) {
  const auto [first, second] = watched(sites, joins, options.activations);
  std::vector<CrossStatistics> statistics(sites.size());
  std::map<const Value*, Moments> moments;
  const auto visit = [&](std::size_t, const Taps& a, const Taps& b, const RowMask& mask) -> Status {
    if (options.activations) {
      OF_TRY(side_by_side(sites.size(), [&](std::size_t i) { return add_batch(sites[i], a, b, mask, statistics[i]); }));
    }
    for (const auto& entry : joins) {
      OF_ASSIGN(const RowView rows, RowView::of(b.at(entry.first->name()), mask, entry.second));
      moments[entry.first].add(rows);
    }
    return {};
  };
  OF_TRY(for_each_batch(model, first, anchor, second, *options.data, visit));
  ActivationFeatures result;
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    result.similarities.push_back(options.activations ? similarity_of(statistics[i]) : Similarity());
    if (options.activations && sites[i].whole_heads) keep_products(result.similarities.back(), statistics[i]);
  }
  for (const auto& entry : moments) result.magnitudes[entry.first] = mean_magnitudes(entry.second);
  return result;
}

// Queries that share keys: what they compute decides which of them goes where.
Status order_queries(const Model& model, const Model& anchor, TransportSites& sites, const TransportOptions& options) {
  std::vector<TransportSite> whole;
  for (const GroupedQueries& each : sites.grouped) {
    for (const SitePart* part : {&each.queries, &each.keys}) {
      whole.push_back(
          {each.queries.maker->label(), "heads", {*part}, false, 0, 0, each.groups.in_place, {}, false, -1});
    }
  }
  if (whole.empty()) return {};
  OF_ASSIGN(const ActivationFeatures features, activation_features(model, anchor, whole, {}, options));
  for (std::size_t i = 0; i < sites.grouped.size(); ++i) {
    GroupedQueries& each = sites.grouped[i];
    OF_ASSIGN(const auto order,
              query_order(features.similarities[2 * i], features.similarities[2 * i + 1], each.groups));
    take_order(sites, each, order);
  }
  return {};
}

// Sites of one attention together, all others alone.
std::vector<std::vector<std::size_t>> teams_of(const std::vector<TransportSite>& sites) {
  std::vector<std::vector<std::size_t>> teams;
  std::map<int, std::size_t> team_of;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const int attention = sites[i].attention;
    const auto known = team_of.find(attention);
    if (attention >= 0 && known != team_of.end()) {
      teams[known->second].push_back(i);
      continue;
    }
    if (attention >= 0) team_of[attention] = teams.size();
    teams.push_back({i});
  }
  return teams;
}

// Are the samples of a site neurons themselves (a Linear that mixes tokens sees channels in its rows)? Then those of
// the two models do not correspond, and weights have to say what goes together.
bool has_moving_rows(const TransportSite& site, const ChannelMaps& channels) {
  for (const SitePart& part : site.parts) {
    const int rank = static_cast<int>(part.second->rank().value_or(0));
    const int own = part.axis < 0 ? part.axis + rank : part.axis;
    for (const ChannelPlace& place : channels.places(part.second)) {
      if (place.axis != own) return true;
    }
  }
  return false;
}

// These plans do not depend on each other.
Status solve_all(const std::vector<Similarity>& all, const ChannelMaps& channels, const TransportSites& sites,
                 const TransportOptions& options, SitePlans& plans) {
  const auto teams = teams_of(sites.sites);
  return side_by_side(teams.size(), [&](std::size_t t) {
    std::vector<Similarity> similarities;
    for (const std::size_t i : teams[t]) {
      if (has_moving_rows(sites.sites[i], channels)) return Status();
      similarities.push_back(all[i]);
    }
    return solve_team(teams[t], similarities, sites, options, plans);
  });
}

}  // namespace

Result<ActivationPlans> activation_plans(const Model& model, const Model& anchor, const ChannelMaps& channels,
                                         const std::map<const Value*, int>& joins, TransportSites& sites,
                                         const TransportOptions& options) {
  ActivationPlans result;
  result.plans.resize(sites.sites.size());
  if (!options.activations && joins.empty()) return result;
  if (options.activations) OF_TRY(order_queries(model, anchor, sites, options));
  OF_ASSIGN(ActivationFeatures features, activation_features(model, anchor, sites.sites, joins, options));
  if (options.activations) OF_TRY(solve_all(features.similarities, channels, sites, options, result.plans));
  result.magnitudes = std::move(features.magnitudes);
  return result;
}

}  // namespace onnxfold
