#include "passes/reparam/ffn/wide_layer.h"

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

Status add_fused_bias(const FeedForward& layer, LinearAffine& up) {
  OF_ASSIGN(const Numbers bias, to_doubles(*layer.fused_bias->input(1)->constant()));
  for (std::size_t c = 0; c < up.bias.size(); ++c) up.bias[c] += bias[bias.size() == 1 ? 0 : c];
  up.biased = true;
  return {};
}

// Columns [offset, offset + count) to the right of what is there.
void append(LinearAffine& to, const LinearAffine& from, std::int64_t offset, std::int64_t count) {
  Matrix joined{from.weight.rows, to.weight.cols + count, {}};
  joined.data.resize(static_cast<std::size_t>(joined.rows * joined.cols));
  for (std::int64_t row = 0; row < joined.rows; ++row) {
    for (std::int64_t col = 0; col < to.weight.cols; ++col) joined.at(row, col) = to.weight.at(row, col);
    for (std::int64_t col = 0; col < count; ++col)
      joined.at(row, to.weight.cols + col) = from.weight.at(row, offset + col);
  }
  to.weight = std::move(joined);
  to.bias.insert(to.bias.end(), from.bias.begin() + offset, from.bias.begin() + offset + count);
  to.biased = to.biased || from.biased;
}

Status replace(Graph& graph, const Linear& linear, const LinearAffine& affine) {
  OF_TRY(replace_linear(graph, linear, affine.weight, affine.biased ? &affine.bias : nullptr));
  return {};
}

}  // namespace

Node* half_split(const FeedForward& layer) {
  Node* found = nullptr;
  for (Node* node : layer.nodes) {
    if (!node->is("Split")) continue;
    if (found != nullptr || node->outputs().size() != 2 || layer.up.out != 2 * layer.hidden) return nullptr;
    found = node;
  }
  return found;
}

Status WideLayer::add(const FfnBranch& branch, bool fold) {
  const Norm* norm = fold ? &*branch.input.norm : nullptr;
  const FeedForward& layer = branch.layer;
  OF_ASSIGN(LinearAffine up, affine_of(layer.up, norm));
  if (layer.fused_bias != nullptr) OF_TRY(add_fused_bias(layer, up));
  append(up_, up, layer.up_offset, layer.hidden);
  if (layer.gate) {
    OF_ASSIGN(const LinearAffine gate, affine_of(*layer.gate, norm));
    append(gate_, gate, layer.gate_offset, layer.hidden);
  }
  return stack(branch);
}

Status WideLayer::write(Graph& graph) {
  const FeedForward& layer = host_.layer;
  widen_types();
  if (layer.packed()) {
    OF_TRY(replace(graph, layer.up, packed()));
    OF_TRY(rewrite_split(graph));
  } else {
    OF_TRY(write_up(graph));
    if (layer.gate) OF_TRY(replace(graph, *layer.gate, gate_));
  }
  return replace(graph, layer.down, down_);
}

Status WideLayer::stack(const FfnBranch& branch) {
  OF_ASSIGN(LinearAffine down, affine_of(branch.layer.down, nullptr));
  OF_ASSIGN(const Numbers factor, factor_of(branch.term, branch.layer.down.out));
  for (std::int64_t row = 0; row < down.weight.rows; ++row) {
    for (std::int64_t col = 0; col < down.weight.cols; ++col)
      down.weight.at(row, col) *= factor[static_cast<std::size_t>(col)];
  }
  if (down_.bias.empty()) down_.bias.assign(factor.size(), 0.0);
  for (std::size_t c = 0; c < factor.size(); ++c) down_.bias[c] += factor[c] * down.bias[c];
  down_.biased = down_.biased || down.biased;
  down_.weight.rows += down.weight.rows;
  down_.weight.cols = down.weight.cols;
  down_.weight.data.insert(down_.weight.data.end(), down.weight.data.begin(), down.weight.data.end());
  return {};
}

// Gate and up in the order that the host has them.
LinearAffine WideLayer::packed() const {
  const bool up_first = host_.layer.up_offset == 0;
  LinearAffine joined = up_first ? up_ : gate_;
  const LinearAffine& second = up_first ? gate_ : up_;
  append(joined, second, 0, second.weight.cols);
  return joined;
}

Status WideLayer::rewrite_split(Graph& graph) {
  Node* split = half_split(host_.layer);
  const std::vector<std::int64_t> sizes = {hidden(), hidden()};
  if (split->attr_ints("split")) split->set_attribute("split", sizes);
  if (Value* old = split->input(1); old != nullptr) {
    graph.set_input(*split, 1, graph.add_initializer(old->name(), Tensor::of<std::int64_t>({2}, sizes)));
    erase_if_unused(graph, *old);
  }
  return {};
}

Status WideLayer::write_up(Graph& graph) {
  Node* fused = host_.layer.fused_bias;
  if (fused == nullptr) return replace(graph, host_.layer.up, up_);
  LinearAffine weight = up_;
  weight.biased = false;
  OF_TRY(replace(graph, host_.layer.up, weight));
  Value* old = fused->input(1);
  OF_ASSIGN(Tensor bias, from_doubles(old->constant()->dtype(), {hidden()}, up_.bias));
  graph.set_input(*fused, 1, graph.add_initializer(old->name(), std::move(bias)));
  erase_if_unused(graph, *old);
  return {};
}

void WideLayer::widen_types() const {
  const FeedForward& layer = host_.layer;
  for (const Node* node : layer.nodes) {
    for (Value* output : node->outputs()) {
      if (output == nullptr || output == layer.output || output == layer.down.product->output()) continue;
      Type type = output->type();
      if (!type.shape || type.shape->empty() || !type.shape->back().known()) continue;
      const std::int64_t width = *type.shape->back().value;
      if (width != layer.hidden && width != layer.up.out) continue;
      type.shape->back() = Dim{width / layer.hidden * hidden(), "", ""};
      output->set_type(type);
    }
  }
}

}  // namespace onnxfold
