#include "analysis/depth/linearity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "analysis/algebra/assignment.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kMostNeurons = 2048;  // the assignment is cubic

struct Member {
  Value* weight = nullptr;
  std::optional<int> neurons;
};
using Key = std::pair<std::size_t, std::string>;  // sublayer, role
using Members = std::map<Key, Member>;

void add(Members& members, const Key& key, Value* weight, std::optional<int> neurons = {}) {
  if (weight == nullptr || weight->constant() == nullptr || !is_float(weight->dtype())) return;
  const auto [known, fresh] = members.emplace(key, Member{weight, neurons});
  if (!fresh) known->second.weight = nullptr;  // two of a role: not told apart
}

// Axis of the stored weight that holds the columns (outputs) or the rows (inputs) of the Linear.
int output_axis(const Linear& linear) { return linear.stored_out_in ? 0 : 1; }
int input_axis(const Linear& linear) { return linear.stored_out_in ? 1 : 0; }

void add_linear(Members& members, std::size_t at, const std::string& role, const Linear& linear,
                std::optional<int> neurons = {}) {
  add(members, {at, role}, linear.weight, neurons);
  add(members, {at, role + " bias"}, linear.bias, neurons == output_axis(linear) ? std::optional(0) : std::nullopt);
}

void add_attention(Members& members, std::size_t at, const std::string& kind, const Attention& attention) {
  if (attention.packed() && attention.q.linear) {
    add_linear(members, at, kind + ".query, key and value", *attention.q.linear);
  } else {
    const std::pair<const char*, const Projection*> all[] = {
        {".query", &attention.q}, {".key", &attention.k}, {".value", &attention.v}};
    for (const auto& [name, projection] : all) {
      if (projection->linear) add_linear(members, at, kind + name, *projection->linear);
    }
    add(members, {at, kind + ".query, key and value"}, attention.packed_weight);
  }
  if (attention.out) add_linear(members, at, kind + ".output", *attention.out);
}

void add_feed_forward(Members& members, std::size_t at, const std::string& kind, const FeedForward& layer) {
  const bool packed = layer.packed();
  const auto columns = [&](const Linear& linear) {
    return packed ? std::optional<int>() : std::optional<int>(output_axis(linear));
  };
  add_linear(members, at, kind + (packed ? ".gate and up" : ".up"), layer.up, columns(layer.up));
  if (layer.gate && !packed) add_linear(members, at, kind + ".gate", *layer.gate, columns(*layer.gate));
  add_linear(members, at, kind + ".down", layer.down,
             packed ? std::optional<int>() : std::optional<int>(input_axis(layer.down)));
}

Members members_of(const Block& block) {
  Members members;
  for (std::size_t at = 0; at < block.sublayers.size(); ++at) {
    const Sublayer& sublayer = block.sublayers[at];
    const std::string kind = (sublayer.cross ? "cross " : "") + std::string(name(sublayer.kind));
    if (sublayer.attention) add_attention(members, at, kind, *sublayer.attention);
    if (sublayer.feed_forward) add_feed_forward(members, at, kind, *sublayer.feed_forward);
    if (sublayer.norm) add(members, {at, kind + ".norm gain"}, sublayer.norm->gain);
    if (sublayer.post_norm) add(members, {at, kind + ".post-norm gain"}, sublayer.post_norm->gain);
  }
  return members;
}

bool alike(const Value& a, const Value& b) {
  return a.dtype() == b.dtype() && a.constant()->dims() == b.constant()->dims();
}

// The blocks whose dimensions most of them have; weights that two blocks share say nothing about depth.
void settle(DepthFamily& family) {
  std::size_t best = 0, most = 0;
  for (std::size_t i = 0; i < family.weights.size(); ++i) {
    const auto count =
        static_cast<std::size_t>(std::count_if(family.weights.begin(), family.weights.end(),
                                               [&](const Value* other) { return alike(*family.weights[i], *other); }));
    if (count > most) {
      most = count;
      best = i;
    }
  }
  DepthFamily kept{family.role, {}, {}, family.neurons, family.sublayer};
  std::set<const void*> seen;
  for (std::size_t i = 0; i < family.weights.size(); ++i) {
    Value* weight = family.weights[i];
    if (!alike(*weight, *family.weights[best]) || !seen.insert(weight->constant()->identity()).second) continue;
    kept.blocks.push_back(family.blocks[i]);
    kept.weights.push_back(weight);
  }
  family = std::move(kept);
}

// [first axis, all others]; a vector is a column.
Result<Matrix> matrix_of(const Value& weight) {
  OF_ASSIGN(std::vector<double> numbers, to_doubles(*weight.constant()));
  const Dims& dims = weight.constant()->dims();
  const std::int64_t rows = dims.empty() ? 1 : dims[0];
  const auto size = static_cast<std::int64_t>(numbers.size());
  return Matrix(rows, rows == 0 ? 0 : size / rows, std::move(numbers));
}

Matrix reordered(const Matrix& matrix, int axis, const std::vector<std::int64_t>& order) {
  Matrix result(matrix.rows, matrix.cols);
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t col = 0; col < matrix.cols; ++col) {
      const std::int64_t from_row = axis == 0 ? order[static_cast<std::size_t>(row)] : row;
      const std::int64_t from_col = axis == 1 ? order[static_cast<std::size_t>(col)] : col;
      result.at(row, col) = matrix.at(from_row, from_col);
    }
  }
  return result;
}

double squares(const Matrix& matrix) {
  return std::inner_product(matrix.data.begin(), matrix.data.end(), matrix.data.begin(), 0.0);
}

// Sums over layers are all that the fit needs.
class LineSums {
 public:
  explicit LineSums(std::size_t layers) : layers_(layers) {}

  void add(const Matrix& layer) {
    if (sum_.empty()) sum_ = tilt_ = Matrix(layer.rows, layer.cols);
    const double t = place(seen_++);
    energy_ += squares(layer);
    tt_ += t * t;
    for (std::size_t i = 0; i < layer.data.size(); ++i) {
      sum_.data[i] += layer.data[i];
      tilt_.data[i] += t * layer.data[i];
    }
  }
  DepthLine line() const {
    const auto count = static_cast<double>(layers_);
    const double mean = squares(sum_) / count, slope = tt_ > 0 ? squares(tilt_) / tt_ : 0, about = energy_ - mean;
    DepthLine line{sum_, tilt_, energy_ > 0 ? (mean + slope) / energy_ : 1, 1};
    if (about > 1e-14 * energy_) line.centred = slope / about;
    for (double& number : line.slope.data) number /= tt_ > 0 ? tt_ : 1;
    const double middle = (count - 1) / 2 / count;  // mean of l / L
    for (std::size_t i = 0; i < line.base.data.size(); ++i)
      line.base.data[i] = sum_.data[i] / count - middle * line.slope.data[i];
    return line;
  }

 private:
  double place(std::size_t layer) const {  // l / L about its mean
    return (static_cast<double>(layer) - (static_cast<double>(layers_) - 1) / 2) / static_cast<double>(layers_);
  }

  const std::size_t layers_;
  std::size_t seen_ = 0;
  Matrix sum_, tilt_;
  double energy_ = 0, tt_ = 0;
};

// similarity[i, j] += what neuron i of the one layer has in common with neuron j of the other, the families' norms
// apart so that none outweighs the others.
void add_similarity(Matrix& similarity, const Matrix& first, const Matrix& second, int axis) {
  const double scale = std::sqrt(squares(first) * squares(second));
  if (scale == 0) return;
  const Matrix common = product(first, second, axis == 1, axis == 0);
  if (similarity.empty()) similarity = Matrix(common.rows, common.cols);
  for (std::size_t i = 0; i < common.data.size(); ++i) similarity.data[i] += common.data[i] / scale;
}

}  // namespace

std::vector<DepthFamily> depth_families(const BlockView& view, std::size_t least) {
  std::map<std::pair<std::size_t, Key>, DepthFamily> families;
  for (std::size_t i = 0; i < view.blocks.size(); ++i) {
    for (const auto& [key, member] : members_of(view.blocks[i])) {
      if (member.weight == nullptr) continue;
      DepthFamily& family = families[{view.blocks[i].stream, key}];
      if (!family.weights.empty() && family.neurons != member.neurons) continue;  // stored the other way round
      family.role = key.second;
      family.sublayer = key.first;
      family.neurons = member.neurons;
      family.blocks.push_back(i);
      family.weights.push_back(member.weight);
    }
  }
  std::vector<DepthFamily> result;
  for (auto& [place, family] : families) {
    settle(family);
    if (family.weights.size() >= least) result.push_back(std::move(family));
  }
  return result;
}

double excess_over(double null, double explained) { return null < 1 ? (explained - null) / (1 - null) : 0; }

DepthLine fit_depth_line(const std::vector<Matrix>& layers) {
  LineSums sums(layers.size());
  for (const Matrix& layer : layers) sums.add(layer);
  return sums.line();
}

Result<std::vector<std::vector<std::int64_t>>> neuron_orders(const std::vector<DepthFamily>& families) {
  std::vector<std::vector<std::int64_t>> orders;
  std::vector<Matrix> before;
  const std::size_t layers = families.empty() ? 0 : families.front().weights.size();
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::vector<Matrix> here;
    Matrix similarity;
    for (std::size_t f = 0; f < families.size(); ++f) {
      OF_ASSIGN(Matrix weight, matrix_of(*families[f].weights[layer]));
      if (layer > 0) add_similarity(similarity, before[f], weight, *families[f].neurons);
      here.push_back(std::move(weight));
    }
    const std::int64_t count = *families.front().neurons == 0 ? here.front().rows : here.front().cols;
    std::vector<std::int64_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    if (!similarity.empty()) order = best_assignment(similarity);
    for (std::size_t f = 0; f < families.size(); ++f) here[f] = reordered(here[f], *families[f].neurons, order);
    before = std::move(here);
    orders.push_back(std::move(order));
  }
  return orders;
}

namespace {

Result<Linearity> measure(const DepthFamily& family, const std::vector<std::vector<std::int64_t>>& orders) {
  const std::size_t layers = family.weights.size();
  LineSums plain(layers), aligned(layers);
  Linearity row{family.role, layers, 0, 0, 2.0 / static_cast<double>(layers), 0, 1.0 / static_cast<double>(layers - 1),
                {}};
  for (std::size_t layer = 0; layer < layers; ++layer) {
    OF_ASSIGN(const Matrix weight, matrix_of(*family.weights[layer]));
    row.parameters += weight.rows * weight.cols;
    plain.add(weight);
    if (!orders.empty()) aligned.add(reordered(weight, *family.neurons, orders[layer]));
  }
  const DepthLine line = plain.line();
  row.explained = line.explained;
  row.centred = line.centred;
  if (!orders.empty()) row.aligned = aligned.line().explained;
  return row;
}

// Families of a model and of the same model with its units in order.
Result<std::vector<Linearity>> measure_both(const std::vector<DepthFamily>& families,
                                            const std::vector<DepthFamily>& ordered) {
  std::vector<Linearity> rows;
  for (const DepthFamily& family : families) {
    OF_ASSIGN(Linearity row, measure(family, {}));
    const auto same = std::find_if(ordered.begin(), ordered.end(), [&](const DepthFamily& other) {
      return other.role == family.role && other.blocks == family.blocks && other.sublayer == family.sublayer;
    });
    if (same != ordered.end()) {
      OF_ASSIGN(const Linearity other, measure(*same, {}));
      row.aligned = other.explained;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

Result<std::vector<Linearity>> measure_linearity(const BlockView& view, const BlockView* aligned) {
  const std::vector<DepthFamily> families = depth_families(view);
  if (aligned != nullptr) return measure_both(families, depth_families(*aligned));
  // Orders of the neurons of each feed-forward layer, by stream, place in the block and blocks.
  using Place = std::pair<std::pair<std::size_t, std::size_t>, std::vector<std::size_t>>;
  std::map<Place, std::vector<DepthFamily>> together;
  const auto place = [&](const DepthFamily& family) {
    return Place{{view.blocks[family.blocks.front()].stream, family.sublayer}, family.blocks};
  };
  for (const DepthFamily& family : families) {
    if (!family.neurons || family.weights.front()->constant()->rank() != 2) continue;
    const Dims& dims = family.weights.front()->constant()->dims();
    if (dims[static_cast<std::size_t>(*family.neurons)] > kMostNeurons) continue;
    together[place(family)].push_back(family);
  }
  std::map<Place, std::vector<std::vector<std::int64_t>>> orders;
  for (const auto& [where, group] : together) {
    OF_ASSIGN(orders[where], neuron_orders(group));
  }
  std::vector<Linearity> rows;
  for (const DepthFamily& family : families) {
    const auto known = family.neurons ? orders.find(place(family)) : orders.end();
    OF_ASSIGN(Linearity row,
              measure(family, known == orders.end() ? std::vector<std::vector<std::int64_t>>() : known->second));
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace onnxfold
