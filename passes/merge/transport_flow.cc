#include "passes/merge/transport_flow.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "analysis/align/axis_map.h"
#include "analysis/structure/norm.h"
#include "exec/side_by_side.h"
#include "passes/merge/aligned_weights.h"
#include "passes/merge/alignment.h"
#include "passes/merge/transport_plans.h"

namespace onnxfold {
namespace {

Matrix scaled(const Matrix& matrix, double factor) {
  Matrix result = matrix;
  for (double& x : result.data) x *= factor;
  return result;
}

// Neurons that stand `repeats` times side by side are mapped alike: head (g, r) goes where g goes, to the same r.
Matrix repeated(const Matrix& map, std::int64_t heads_from, std::int64_t heads_to, std::int64_t repeats) {
  if (repeats == 1) return map;
  const std::int64_t from = map.rows / heads_from, to = map.cols / heads_to;
  Matrix result(map.rows * repeats, map.cols * repeats);
  for (std::int64_t i = 0; i < map.rows; ++i) {
    for (std::int64_t j = 0; j < map.cols; ++j) {
      for (std::int64_t r = 0; r < repeats; ++r) {
        result.at((i / from * repeats + r) * from + i % from, (j / to * repeats + r) * to + j % to) = map.at(i, j);
      }
    }
  }
  return result;
}

class Flow {
 public:
  Flow(Model& model, Model& anchor, const TransportOptions& options)
      : model_(model), anchor_(anchor), options_(options) {}

  Result<Transported> run() {
    OF_ASSIGN(map_, correspond(model_.graph(), anchor_.graph()));
    AxisGroups groups = find_axis_groups(anchor_.graph());
    OF_ASSIGN(sites_, find_transport_sites(model_.graph(), anchor_, map_, groups, options_));
    weights_ = AlignedWeights(map_, sites_.kept);
    plans_.resize(sites_.sites.size());
    note_places(groups);
    if (options_.data != nullptr) OF_TRY(use_data());
    for (const Node* node : anchor_.graph().nodes()) OF_TRY(visit(*node));
    Transported result;
    for (std::size_t i = 0; i < plans_.size(); ++i) {
      const auto& plan = plans_[i];
      if (!plan) continue;
      result.layers.push_back(
          {sites_.sites[i].name, sites_.sites[i].kind, plan->before, plan->after, plan->cost, plan->sharpness});
    }
    for (MergeLayer& layer : source_layers_) result.layers.push_back(std::move(layer));
    OF_ASSIGN(result.model, weights_.written(anchor_));
    result.notes = weights_.notes();
    return result;
  }

 private:
  struct Place {
    int axis;
    std::size_t group;
  };

  // ---- preparation ----
  void note_places(const AxisGroups& groups) {
    for (std::size_t g = 0; g < groups.groups.size(); ++g) {
      for (const AxisPlace& place : groups.groups[g].constants) places_[place.value].push_back({place.axis, g});
      for (const AxisPlace& place : groups.groups[g].values) places_[place.value].push_back({place.axis, g});
    }
    norms_ = find_norms(anchor_.graph());
    for (const Norm& norm : norms_) {
      for (const Node* node : norm.nodes) inner_.insert(node);
      norm_of_[norm.last()] = &norm;
    }
    for (const Attention& attention : groups.attentions) {
      for (const Node* node : attention.nodes) {
        if (!linear_at(*node)) inner_.insert(node);
      }
    }
  }
  const std::vector<Place>& places(const Value* value) const {
    static const std::vector<Place> kNone;
    const auto found = places_.find(value);
    return found == places_.end() ? kNone : found->second;
  }

  bool weighs_joins() const {
    return options_.policy == ResidualPolicy::kWeightedScalar || options_.policy == ResidualPolicy::kWeightedMatrix;
  }
  Status use_data() {
    std::map<const Value*, int> joins;
    for (const Node* node : anchor_.graph().nodes()) {
      if (!weighs_joins() || !node->is("Add") || inner_.count(node) != 0) continue;
      for (const Value* input : node->inputs()) {
        if (parameter(input) == nullptr && !places(input).empty()) joins[input] = places(input).front().axis;
      }
    }
    if (!options_.activations && joins.empty()) return {};
    if (options_.activations) OF_TRY(order_by_activations());
    OF_ASSIGN(features_, activation_features(model_, anchor_, sites_.sites, joins, options_));
    return options_.activations ? solve_all() : Status();
  }
  // Queries that share keys first; what they compute decides.
  Status order_by_activations() {
    std::vector<TransportSite> sites;
    for (const GroupedQueries& each : sites_.grouped) {
      for (const SitePart* part : {&each.queries, &each.keys}) {
        sites.push_back(
            {each.queries.maker->label(), "heads", {*part}, false, 0, 0, each.groups.in_place, {}, false, -1});
      }
    }
    if (sites.empty()) return {};
    OF_ASSIGN(const ActivationFeatures features, activation_features(model_, anchor_, sites, {}, options_));
    for (std::size_t i = 0; i < sites_.grouped.size(); ++i) {
      GroupedQueries& each = sites_.grouped[i];
      OF_ASSIGN(const auto order,
                query_order(features.similarities[2 * i], features.similarities[2 * i + 1], each.groups));
      take_order(sites_, each, order);
    }
    return {};
  }
  // The same by weights, when what reaches them is known.
  Status order_by_weights(const Node& product) {
    for (GroupedQueries& each : sites_.grouped) {
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
      take_order(sites_, each, order);
    }
    return {};
  }
  // Plans from activations do not depend on each other.
  Status solve_all() {
    std::vector<std::vector<std::size_t>> teams;
    std::map<int, std::size_t> team_of;
    for (std::size_t i = 0; i < sites_.sites.size(); ++i) {
      const int attention = sites_.sites[i].attention;
      const auto known = team_of.find(attention);
      if (attention >= 0 && known != team_of.end()) {
        teams[known->second].push_back(i);
        continue;
      }
      if (attention >= 0) team_of[attention] = teams.size();
      teams.push_back({i});
    }
    return side_by_side(teams.size(), [&](std::size_t t) {
      if (std::any_of(teams[t].begin(), teams[t].end(), [&](std::size_t i) { return has_moving_rows(i); }))
        return Status();
      std::vector<Similarity> similarities;
      for (const std::size_t i : teams[t]) similarities.push_back(features_.similarities[i]);
      return solve(teams[t], similarities);
    });
  }
  // Are the samples of a site neurons themselves (a Linear that mixes tokens sees channels in its rows)? Then those of
  // the two models do not correspond, and weights have to say what goes together.
  bool has_moving_rows(std::size_t site) const {
    for (const SitePart& part : sites_.sites[site].parts) {
      const int rank = static_cast<int>(part.second->rank().value_or(0));
      const int own = part.axis < 0 ? part.axis + rank : part.axis;
      for (const Place& place : places(part.second)) {
        if (place.axis != own) return true;
      }
    }
    return false;
  }
  Status solve(const std::vector<std::size_t>& team, const std::vector<Similarity>& similarities) {
    std::vector<const TransportSite*> sites;
    for (const std::size_t i : team) sites.push_back(&sites_.sites[i]);
    auto plans = solve_sites(sites, similarities, options_);
    if (!plans) return fail(plans.error().in(sites.front()->name));
    for (std::size_t k = 0; k < team.size(); ++k) plans_[team[k]] = std::move((*plans)[k]);
    return {};
  }

  // ---- maps ----
  TransportMap flow(const Value* value, int axis) const {
    const auto found = flows_.find({value, axis});
    return found == flows_.end() ? TransportMap() : found->second;
  }
  static TransportMap output_map(const SitePlan& plan) {
    return std::make_shared<const Matrix>(scaled(plan.plan, static_cast<double>(plan.plan.cols)));
  }
  static Matrix input_map(const Matrix& map) {
    return scaled(map, static_cast<double>(map.rows) / static_cast<double>(map.cols));
  }

  // ---- the walk ----
  Status visit(const Node& node) {
    if (!visited_.insert(&node).second) return {};
    for (const Value* input : node.inputs()) {
      if (input != nullptr && input->producer() != nullptr && input->graph() == node.graph()) {
        OF_TRY(visit(*input->producer()));
      }
    }
    if (const auto norm = norm_of_.find(&node); norm != norm_of_.end()) return visit_norm(*norm->second);
    if (biases_.count(&node) != 0 || inner_.count(&node) != 0) return {};
    if (const auto linear = linear_at(node)) return visit_linear(*linear);
    const auto columns = sites_.columns.find(&node);
    if (columns != sites_.columns.end()) return visit_site(node, columns->second.front());
    if (reads_all_channels(node)) return take_input(node);
    return visit_other(node);
  }

  Status visit_norm(const Norm& norm) {
    const int axis = norm.output->rank().value_or(0) - 1;
    TransportMap map = flow(norm.input, norm.input->rank().value_or(0) - 1);
    if (norm.skip != nullptr) {
      const int skip_axis = norm.skip->rank().value_or(0) - 1;
      OF_ASSIGN(map, joined({norm.input, skip_axis, false}, {norm.skip, skip_axis, false}));
    }
    for (const Value* vector : {norm.gain, norm.bias, norm.sum_bias}) {
      if (vector != nullptr) OF_TRY(align_vector(*vector, map));
    }
    if (map == nullptr) return {};
    flows_[{norm.output, axis}] = map;
    if (norm.sum != nullptr) flows_[{norm.sum, axis}] = map;
    return {};
  }
  Status align_vector(const Value& vector, const TransportMap& map) {
    return map == nullptr ? Status() : weights_.map(vector, vector.rank().value_or(1) - 1, *map);
  }

  // ---- Linears ----
  std::optional<Linear> partner(const Linear& linear) const {
    const auto other = map_.first_of.find(linear.product->output());
    if (other == map_.first_of.end() || other->second->producer() == nullptr) return {};
    return linear_at(*other->second->producer());
  }
  // The model's weight [in of the anchor, out of the model] behind the map of its input.
  Result<Matrix> received(const Linear& linear) {
    const auto known = received_.find(linear.product);
    if (known != received_.end()) return known->second;
    if (linear.input->producer() != nullptr) OF_TRY(visit(*linear.input->producer()));
    OF_TRY(order_by_weights(*linear.product));
    OF_ASSIGN(Matrix weight, weight_matrix(*partner(linear)));
    TransportMap map = flow(linear.input, linear.input->rank().value_or(0) - 1);
    const auto behind = sites_.inputs.find(linear.product);
    if (behind != sites_.inputs.end()) {
      const SiteColumns& columns = behind->second;
      weight = chosen_rows(weight, columns.first);
      const TransportSite& site = sites_.sites[columns.site];
      OF_ASSIGN(const SitePlan* const plan, plan_of(columns.site));
      const std::int64_t from = std::max<std::int64_t>(site.first_heads, 1),
                         to = std::max<std::int64_t>(site.second_heads, 1);
      map = std::make_shared<const Matrix>(repeated(*output_map(*plan), from, to, columns.repeats));
    }
    if (map != nullptr && map->rows == weight.rows) weight = product(input_map(*map), weight, true);
    return received_[linear.product] = std::move(weight);
  }
  static Matrix chosen_rows(const Matrix& weight, const std::vector<std::int64_t>& rows) {
    if (rows.size() != static_cast<std::size_t>(weight.rows)) return weight;
    Matrix result(0, weight.cols);
    for (const std::int64_t row : rows) {
      const auto begin = weight.data.begin() + row * weight.cols;
      result.data.insert(result.data.end(), begin, begin + weight.cols);
      ++result.rows;
    }
    return result;
  }
  static Matrix chosen(const Matrix& weight, const std::vector<std::int64_t>& columns) {
    if (columns.empty()) return weight;
    Matrix result(weight.rows, static_cast<std::int64_t>(columns.size()));
    for (std::int64_t i = 0; i < weight.rows; ++i) {
      for (std::int64_t j = 0; j < result.cols; ++j) {
        result.at(i, j) = weight.at(i, columns[static_cast<std::size_t>(j)]);
      }
    }
    return result;
  }

  // The plan of a site; from weights it is made when it is asked for.
  Result<const SitePlan*> plan_of(std::size_t site) {
    if (plans_[site]) return &*plans_[site];
    std::vector<std::size_t> team;
    const int attention = sites_.sites[site].attention;
    for (std::size_t i = 0; i < sites_.sites.size(); ++i) {
      const bool together = attention >= 0 && options_.heads_apart && sites_.sites[i].attention == attention;
      if (i == site || together) team.push_back(i);
    }
    std::vector<Similarity> similarities;
    for (const std::size_t i : team) {
      OF_ASSIGN(Similarity similarity, weight_similarity(sites_.sites[i]));
      similarities.push_back(std::move(similarity));
    }
    OF_TRY(solve(team, similarities));
    return &*plans_[site];
  }
  Result<Similarity> weight_similarity(const TransportSite& site) {
    Matrix x, y;
    for (const SitePart& part : site.parts) {
      OF_ASSIGN(auto features, part_weights(part));
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
  // Weights into the part's neurons, one a column, of both models.
  Result<std::pair<Matrix, Matrix>> part_weights(const SitePart& part) {
    if (const auto linear = linear_at(*part.maker)) {
      OF_ASSIGN(const Matrix first, received(*linear));
      OF_ASSIGN(const Matrix second, weight_matrix(*linear));
      return std::pair(chosen(first, part.first_columns), chosen(second, part.second_columns));
    }
    const bool table = part.maker->is("Gather");
    const Value& weight = *part.maker->input(table ? 0 : 1);
    OF_ASSIGN(Weight first, weights_.own(weight));
    OF_ASSIGN(const Weight second, weight_of(weight));
    if (!table) {
      const TransportMap map = flow(part.maker->input(0), 1);
      if (map != nullptr) first = mapped(first, 1, input_map(*map));
    }
    const int axis = table ? static_cast<int>(second.dims.size()) - 1 : 0;
    return std::pair(columns_along(first, axis), columns_along(second, axis));
  }
  static void append_right(Matrix& whole, const Matrix& part) {
    if (whole.empty()) {
      whole = part;
    } else {
      whole = transposed(whole);
      append_below(whole, transposed(part));
      whole = transposed(whole);
    }
  }
  static void append_below(Matrix& whole, const Matrix& part) {
    whole.data.insert(whole.data.end(), part.data.begin(), part.data.end());
    whole.rows += part.rows;
    whole.cols = part.cols;
  }

  Status visit_linear(const Linear& linear) {
    if (linear.bias_add != nullptr) biases_.insert(linear.bias_add);
    const auto other = partner(linear);
    if (!other) return fail(Code::kInternal, "transport: a Linear has no partner");
    OF_ASSIGN(const Matrix weight, received(linear));
    OF_ASSIGN(const std::vector<double> bias, bias_vector(*other));
    const auto columns = sites_.columns.find(linear.product);
    Matrix whole(weight.rows + 1, weight.cols);
    std::copy(weight.data.begin(), weight.data.end(), whole.data.begin());
    std::copy(bias.begin(), bias.end(), whole.data.begin() + static_cast<std::ptrdiff_t>(weight.data.size()));
    if (columns != sites_.columns.end()) {
      OF_ASSIGN(whole, sent(linear, std::move(whole), columns->second));
    }
    pass_rows(linear);
    return weights_.set(linear, whole);
  }
  // Neurons on other axes than the one that is multiplied (channels, where a Linear mixes tokens) stay what they are.
  void pass_rows(const Linear& linear) {
    for (const Value* output : {linear.product->output(), linear.output}) {
      const auto rank = output->rank();
      if (!rank || rank != linear.input->rank()) continue;
      for (const Place& place : places(output)) {
        if (place.axis == *rank - 1) continue;
        const TransportMap map = flow(linear.input, place.axis);
        if (map != nullptr) flows_[{output, place.axis}] = map;
      }
    }
  }

  // Columns in the anchor's neurons. A column that no site maps stays where it is.
  Result<Matrix> sent(const Linear& linear, Matrix whole, const std::vector<SiteColumns>& sites) {
    const bool all = sites.size() == 1 && sites.front().second.empty();
    Matrix result(whole.rows, linear.out);
    if (!all && whole.cols == linear.out) result = whole;
    for (const SiteColumns& each : sites) {
      OF_ASSIGN(const SitePlan* const plan, plan_of(each.site));
      const TransportSite& site = sites_.sites[each.site];
      TransportMap map = output_map(*plan);
      if (all) {
        result = product_or_gather(whole, *map);
        for (const Value* output : {linear.product->output(), linear.output}) {
          flows_[{output, output->rank().value_or(0) - 1}] = map;
        }
        continue;
      }
      Matrix source = chosen(whole, each.first);
      if (site.joint) {
        OF_ASSIGN(source, joint_source(site));
        map = std::make_shared<const Matrix>(joint_columns(*map, each));
      } else {
        const std::int64_t from = std::max<std::int64_t>(site.first_heads, 1),
                           to = std::max<std::int64_t>(site.second_heads, 1);
        map = std::make_shared<const Matrix>(repeated(*map, from, to, each.repeats));
      }
      place(product_or_gather(source, *map), each, result);
    }
    return result;
  }
  static Matrix product_or_gather(const Matrix& rows, const Matrix& map) {
    return Matrix(rows.rows, map.cols, mapped(Weight{{rows.rows, rows.cols}, rows.data}, 1, map).data);
  }
  static void place(const Matrix& part, const SiteColumns& columns, Matrix& whole) {
    for (std::int64_t i = 0; i < part.rows; ++i) {
      for (std::int64_t j = 0; j < part.cols; ++j) {
        whole.at(i, columns.second[static_cast<std::size_t>(j)]) = columns.factor * part.at(i, j);
      }
    }
  }
  // Neurons of queries and keys are one set: both Linears' columns side by side, with their biases below.
  Result<Matrix> joint_source(const TransportSite& site) {
    Matrix whole;
    for (const SitePart& part : site.parts) {
      const auto linear = linear_at(*part.maker);
      OF_ASSIGN(Matrix weight, received(*linear));
      OF_ASSIGN(const std::vector<double> bias, bias_vector(*partner(*linear)));
      append_below(weight, Matrix(1, weight.cols, bias));
      append_right(whole, chosen(weight, part.first_columns));
    }
    return whole;
  }
  static Matrix joint_columns(const Matrix& map, const SiteColumns& columns) {
    Matrix result(map.rows, static_cast<std::int64_t>(columns.second.size()));
    for (std::int64_t i = 0; i < map.rows; ++i) {
      for (std::int64_t j = 0; j < result.cols; ++j) result.at(i, j) = map.at(i, columns.part_offset + j);
    }
    return result;
  }

  // ---- convolutions and embeddings ----
  Status visit_site(const Node& node, const SiteColumns& columns) {
    const bool table = node.is("Gather");
    const Value& weight = *node.input(table ? 0 : 1);
    OF_ASSIGN(const SitePlan* const plan, plan_of(columns.site));
    const TransportMap map = output_map(*plan);
    if (table) {
      OF_TRY(weights_.map(weight, weight.rank().value_or(2) - 1, *map));
      flows_[{node.output(), node.output()->rank().value_or(0) - 1}] = map;
      return {};
    }
    const TransportMap in = flow(node.input(0), 1);
    std::vector<std::pair<int, Matrix>> maps = {{0, *map}};
    if (in != nullptr) maps.push_back({1, input_map(*in)});
    OF_TRY(weights_.map(weight, maps));
    if (node.input(2) != nullptr && parameter(node.input(2)) != nullptr) OF_TRY(weights_.map(*node.input(2), 0, *map));
    flows_[{node.output(), 1}] = map;
    return {};
  }

  // A convolution whose own channels stay where they are: those of its input may have moved.
  static bool reads_all_channels(const Node& node) {
    return node.is("Conv") && node.attr_int("group", 1) == 1 && node.input(1) != nullptr &&
           parameter(node.input(1)) != nullptr;
  }
  Status take_input(const Node& node) {
    const TransportMap in = flow(node.input(0), 1);
    return in == nullptr ? Status() : weights_.map(*node.input(1), 1, input_map(*in));
  }

  // ---- all else: maps pass, vectors follow, sums are joins ----
  Status visit_other(const Node& node) {
    for (const Value* output : node.outputs()) {
      if (output == nullptr) continue;
      for (const Place& place : places(output)) OF_TRY(pass_on(node, *output, place));
    }
    return {};
  }

  struct Operand {
    const Value* value;
    int axis;
    bool constant;  // or computed from constants alone
  };
  std::vector<Operand> operands(const Node& node, std::size_t group) const {
    std::vector<Operand> found;
    for (const Value* input : node.inputs()) {
      for (const Place& place : places(input)) {
        if (place.group != group) continue;
        found.push_back({input, place.axis, parameter(input) != nullptr || constant_.count(input) != 0});
      }
    }
    return found;
  }
  // Has it other elements than one for each channel?
  static bool is_vector(const Value& constant, int axis) {
    const Tensor& tensor = *parameter(&constant);
    return tensor.size() == tensor.dims()[static_cast<std::size_t>(axis)];
  }

  Status pass_on(const Node& node, const Value& output, const Place& place) {
    std::vector<Operand> moving, followers;
    const std::vector<Operand> all = operands(node, place.group);
    const bool computed = std::any_of(all.begin(), all.end(), [](const Operand& each) { return !each.constant; });
    const bool sum = node.is("Add") || node.is("Sub");
    for (const Operand& each : all) {
      const bool weight = parameter(each.value) != nullptr;
      // Of a convolution channel by channel the weight is of its input's neurons.
      if (weight && computed && !node.is("Concat") && (node.is("Conv") || is_vector(*each.value, each.axis))) {
        followers.push_back(each);
        continue;
      }
      if (weight) OF_TRY(make_source(*each.value, each.axis));
      // Of a table beside computed values only a sum takes the map.
      if (!computed || !each.constant || sum) moving.push_back(each);
    }
    if (!computed) constant_.insert(&output);
    TransportMap map;
    if (moving.size() == 2 && sum) {
      const bool swap = moving[0].constant != moving[1].constant
                            ? moving[0].constant
                            : order_of(moving[0].value) > order_of(moving[1].value);
      // The stream is what was there first; a table (of positions) joins it, as in the method's released code.
      OF_ASSIGN(map, joined(moving[swap ? 1 : 0], moving[swap ? 0 : 1]));
    } else {
      map = mean_of(moving);
    }
    if (map == nullptr) return {};
    flows_[{&output, place.axis}] = map;
    for (const Operand& each : followers) OF_TRY(weights_.map(*each.value, each.axis, *map));
    return {};
  }

  // A table of its own (positions, class token) gets a map from its values.
  Status make_source(const Value& constant, int axis) {
    if (flows_.count({&constant, axis}) != 0) return {};
    OF_ASSIGN(const Weight first, weights_.own(constant));
    OF_ASSIGN(const Weight second, weight_of(constant));
    Matrix x = columns_along(first, axis), y = columns_along(second, axis);
    if (x.rows != y.rows) {
      return fail(Code::kInvalidArgument,
                  fmt::format("'{}' has different sizes in the models on axes that are no channels", constant.name()));
    }
    const bool single = x.rows == 1;
    if (options_.activations && !single) {
      x = standardised(x);
      y = standardised(y);
    }
    const Similarity similarity = similarity_of(x, y);
    OF_ASSIGN(const SitePlan plan,
              solve_distances(similarity, single ? distances(x.data, y.data) : distances(similarity), options_));
    source_layers_.push_back({constant.name(), "table", plan.before, plan.after, plan.cost, plan.sharpness});
    const TransportMap map = output_map(plan);
    flows_[{&constant, axis}] = map;
    constant_.insert(&constant);
    return weights_.map(constant, axis, *map);
  }

  std::size_t order_of(const Value* value) const {
    if (order_.empty()) {
      for (const Node* node : anchor_.graph().nodes()) order_.emplace(node, order_.size() + 1);
    }
    const auto found = order_.find(value->producer());
    return found == order_.end() ? 0 : found->second;
  }
  Result<TransportMap> joined(const Operand& stream, const Operand& branch) {
    JoinMagnitudes magnitudes;
    if (weighs_joins()) {
      OF_ASSIGN(magnitudes.stream, magnitude(stream));
      OF_ASSIGN(magnitudes.branch, magnitude(branch));
    }
    const TransportMap r = flow(stream.value, stream.axis), b = flow(branch.value, branch.axis);
    if (r == nullptr && b == nullptr) return TransportMap();
    return joined_map(r, b, options_.policy, magnitudes);
  }
  Result<std::vector<double>> magnitude(const Operand& operand) const {
    const auto found = features_.magnitudes.find(operand.value);
    if (found != features_.magnitudes.end()) return found->second;
    if (parameter(operand.value) == nullptr) return std::vector<double>();
    OF_ASSIGN(const Weight weight, weight_of(*operand.value));
    Moments moments;
    moments.add(columns_along(weight, operand.axis));
    std::vector<double> result = moments.sum_abs;
    for (double& x : result) x /= static_cast<double>(std::max<std::int64_t>(moments.rows, 1));
    return result;
  }

  // Other operators than sums should get equal maps: the mean is theirs to the last bit.
  TransportMap mean_of(const std::vector<Operand>& operands) const {
    TransportMap result;
    double count = 0;
    for (const Operand& each : operands) {
      const TransportMap own = flow(each.value, each.axis);
      if (own == nullptr || own == result) continue;
      ++count;
      result =
          result == nullptr ? own : std::make_shared<const Matrix>(sum(*result, sum(*own, *result, -1), 1 / count));
    }
    return result;
  }

  Model& model_;
  Model& anchor_;
  const TransportOptions& options_;
  Correspondence map_;
  TransportSites sites_;
  AlignedWeights weights_;
  ActivationFeatures features_;
  std::vector<std::optional<SitePlan>> plans_;
  std::vector<MergeLayer> source_layers_;
  std::map<const Value*, std::vector<Place>> places_;
  std::vector<Norm> norms_;
  std::map<const Node*, const Norm*> norm_of_;
  std::set<const Node*> inner_, biases_, visited_;
  std::set<const Value*> constant_;  // computed from constants alone
  std::map<std::pair<const Value*, int>, TransportMap> flows_;
  std::map<const Node*, Matrix> received_;
  mutable std::map<const Node*, std::size_t> order_;
};

}  // namespace

Result<Transported> transport_model(Model& model, Model& anchor, const TransportOptions& options) {
  unshare_vectors(model.graph());
  unshare_vectors(anchor.graph());
  return Flow(model, anchor, options).run();
}

}  // namespace onnxfold
