// Where optimal transport makes new maps: outputs of Linears, convolutions and embeddings of two corresponding models.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "analysis/align/heads.h"
#include "analysis/structure/axis_groups.h"
#include "analysis/structure/correspondence.h"
#include "analysis/structure/feed_forward.h"
#include "passes/merge/query_order.h"
#include "passes/merge/residual_policy.h"

namespace onnxfold {

struct Dataset;

struct TransportOptions {
  enum class Scores { kSeparate, kCommon, kJoint };

  const Dataset* data = nullptr;  // null: features are weights
  bool activations = true;        // features are what the neurons compute; REQUIRES data
  bool exact = false;             // else Sinkhorn
  double lambda = 0.08;           // of Sinkhorn
  Scores scores = Scores::kSeparate;
  bool heads_apart = false;    // weight stays within heads
  bool all_positions = false;  // also those that do not reach the outputs
  ResidualPolicy policy = ResidualPolicy::kMean;
};

// Neurons of one value in both models.
struct SitePart {
  const Node* maker = nullptr;                              // of the anchor: product of a Linear, Conv, Gather
  Value* first = nullptr;                                   // of the model that is transported
  Value* second = nullptr;                                  // of the anchor
  int axis = -1;                                            // of the channels
  std::vector<std::int64_t> first_columns, second_columns;  // empty: all
  std::optional<std::int64_t> position;                     // the only one (on axis 1) whose neurons reach the outputs
};

// One plan. Features of the parts are further samples of the same neurons; those of a joint site further neurons.
struct TransportSite {
  std::string name, kind;
  std::vector<SitePart> parts;
  bool joint = false;
  std::int64_t first_heads = 0, second_heads = 0;  // neurons counted head by head; 0: there are no heads
  bool whole_heads = false;          // elements of a head keep their places (rotary embedding, norms inside of heads)
  std::vector<HeadPart> turns = {};  // with whole_heads: what elements may do all the same
  bool fixed_heads = false;          // heads keep their places
  int attention = -1;                // sites with the same number move heads alike when heads are kept apart
};

// Columns of a Linear's output that a site maps. Its plan is over `columns / repeats` neurons: query heads that share a
// key-value head are mapped alike.
struct SiteColumns {
  std::size_t site = 0;
  std::int64_t part_offset = 0;  // of a joint site: where these neurons begin among the anchor's
  std::vector<std::int64_t> first, second;
  std::int64_t repeats = 1;
  double factor = 1;  // on the aligned weights: queries and keys of heads that change their width
};

// Queries that share keys. Which goes where inside of a group is found first; then the model's columns are taken in
// that order everywhere.
struct GroupedQueries {
  int attention = -1;
  SitePart queries, keys;  // whole, head by head
  QueryGroups groups;
  Projection projection;  // of the model's queries
  const Node* out = nullptr;
  std::vector<std::pair<std::size_t, std::size_t>> parts;  // site and part of each of the queries; or, if one, of all
  bool ordered = false;
};

struct TransportSites {
  std::vector<TransportSite> sites;
  std::map<const Node*, std::vector<SiteColumns>> columns;  // by product (or Conv, Gather) of the anchor
  // Products of the anchor whose input is made of a site's neurons behind an attention or a packed gate.
  std::map<const Node*, SiteColumns> inputs;
  std::vector<Attention> attentions;  // of the anchor
  std::vector<GroupedQueries> grouped;
  // Constants of the anchor that say how scores are scaled where head widths differ: the anchor's are kept.
  std::vector<const Value*> kept;
};

// The model's Linear where the anchor has this one; none where something else stands there.
std::optional<Linear> partner(const Correspondence& map, const Linear& linear);

// Neurons of that Linear in both models. REQUIRES a partner.
SitePart part_of(const Correspondence& map, const Linear& linear, std::vector<std::int64_t> first,
                 std::vector<std::int64_t> second);
std::vector<std::int64_t> consecutive(std::int64_t begin, std::int64_t count);
// Returns its number.
std::size_t add_site(TransportSites& sites, TransportSite site);

// Takes the model's queries in the order of query_order from now on.
void take_order(TransportSites& sites, GroupedQueries& queries, const std::vector<std::vector<std::int64_t>>& order);

// REQUIRES types of both models. Errors: unsupported, when an option cannot be followed (joint maps of queries and keys
// that read different values) or heads of different widths would have to keep their elements apart.
Result<TransportSites> find_transport_sites(const Graph& model, const Model& anchor, const Correspondence& map,
                                            const AxisGroups& groups, const TransportOptions& options);

}  // namespace onnxfold
