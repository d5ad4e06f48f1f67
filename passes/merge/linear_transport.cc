#include "passes/merge/linear_transport.h"

namespace onnxfold {
namespace {

// [in + 1, out], the bias below.
Result<Matrix> with_bias(Matrix weight, const Linear& own) {
  OF_ASSIGN(const std::vector<double> bias, bias_vector(own));
  append_below(weight, Matrix(1, weight.cols, bias));
  return weight;
}

void place(const Matrix& part, const SiteColumns& columns, Matrix& whole) {
  for (std::int64_t i = 0; i < part.rows; ++i) {
    for (std::int64_t j = 0; j < part.cols; ++j) {
      whole.at(i, columns.second[static_cast<std::size_t>(j)]) = columns.factor * part.at(i, j);
    }
  }
}

class Sender {
 public:
  Sender(const Linear& linear, TransportState& state, ReceivedWeights& received)
      : linear_(linear), state_(state), received_(received) {}

  // Columns in the anchor's neurons. A column that no site maps stays where it is.
  Result<Matrix> sent(const Matrix& whole, const std::vector<SiteColumns>& sites) {
    if (sites.size() == 1 && sites.front().second.empty()) return sent_whole(whole, sites.front());
    Matrix result(whole.rows, linear_.out);
    if (whole.cols == linear_.out) result = whole;
    for (const SiteColumns& each : sites) {
      OF_ASSIGN(const Matrix part, sent_part(whole, each));
      place(part, each, result);
    }
    return result;
  }

 private:
  Result<Matrix> sent_whole(const Matrix& whole, const SiteColumns& columns) {
    OF_ASSIGN(const SitePlan* const plan, received_.plan(columns.site));
    const TransportMap map = output_map(plan->plan);
    for (const Value* output : {linear_.product->output(), linear_.output}) state_.maps.set_last_axis(output, map);
    return mapped_columns(whole, *map);
  }

  Result<Matrix> sent_part(const Matrix& whole, const SiteColumns& columns) {
    OF_ASSIGN(const SitePlan* const plan, received_.plan(columns.site));
    const TransportSite& site = state_.sites.sites[columns.site];
    const TransportMap map = output_map(plan->plan);
    if (site.joint) {
      OF_ASSIGN(const Matrix source, joint_source(site));
      const auto count = static_cast<std::int64_t>(columns.second.size());
      return mapped_columns(source, column_range(*map, columns.part_offset, count));
    }
    const TransportMap by_head = repeated_by_head(map, site.first_heads, site.second_heads, columns.repeats);
    return mapped_columns(chosen_columns(whole, columns.first), *by_head);
  }

  // Neurons of queries and keys are one set: both Linears' columns side by side, with their biases below.
  Result<Matrix> joint_source(const TransportSite& site) {
    Matrix whole;
    for (const SitePart& part : site.parts) {
      const auto linear = linear_at(*part.maker);
      OF_ASSIGN(Matrix weight, received_.of(*linear));
      OF_ASSIGN(const Matrix both, with_bias(std::move(weight), *partner(state_.partners, *linear)));
      append_right(whole, chosen_columns(both, part.first_columns));
    }
    return whole;
  }

  const Linear& linear_;
  TransportState& state_;
  ReceivedWeights& received_;
};

// Channels, where a Linear mixes tokens.
void pass_rows(const Linear& linear, ChannelMaps& maps) {
  for (const Value* output : {linear.product->output(), linear.output}) {
    const auto rank = output->rank();
    if (!rank || rank != linear.input->rank()) continue;
    for (const ChannelPlace& place : maps.places(output)) {
      if (place.axis == *rank - 1) continue;
      if (const TransportMap map = maps.at(linear.input, place.axis)) maps.set(output, place.axis, map);
    }
  }
}

}  // namespace

Status transport_linear(const Linear& linear, TransportState& state, ReceivedWeights& received) {
  const auto other = partner(state.partners, linear);
  if (!other) return fail(Code::kInternal, "transport: a Linear has no partner");
  OF_ASSIGN(Matrix weight, received.of(linear));
  OF_ASSIGN(Matrix whole, with_bias(std::move(weight), *other));
  const auto columns = state.sites.columns.find(linear.product);
  if (columns != state.sites.columns.end()) {
    OF_ASSIGN(whole, Sender(linear, state, received).sent(whole, columns->second));
  }
  pass_rows(linear, state.maps);
  return state.weights.set(linear, whole);
}

}  // namespace onnxfold
