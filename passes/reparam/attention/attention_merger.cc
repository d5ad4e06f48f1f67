#include "passes/reparam/attention/attention_merger.h"

#include <algorithm>
#include <numeric>

#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

void set_columns(Value& value, std::int64_t columns) {
  Type type = value.type();
  if (!type.shape || type.shape->empty()) return;
  type.shape->back() = Dim{columns, "", ""};
  value.set_type(type);
}

}  // namespace

AttentionMerger::AttentionMerger(const std::vector<AttentionBranch>& group, HeadPaths& paths, Grows grows)
    : group_(group), host_(group.front()), paths_(paths), grows_(grows), growth_(paths.numbers()) {
  const Attention& host = host_.attention;
  std::int64_t now = grows == Grows::kHeads ? host.heads : 1;
  for (const AttentionBranch& branch : group_) total_ += grows == Grows::kHeads ? branch.attention.heads : 1;
  const std::int64_t common = std::gcd(total_, now);
  times_ = total_ / common;
  per_ = now / common;
  if (grows == Grows::kWidth) total_ *= host.head_width;
}

std::string AttentionMerger::plan() {
  const Attention& host = host_.attention;
  if (grows_ == Grows::kHeads && (host.q.heads < 2 || host.k.heads < 2 || host.v.heads < 2)) return "it has one head";
  for (std::size_t role = 0; role < 3; ++role) {
    if (std::string why = plan_projection(role); !why.empty()) return why;
  }
  std::string why = plan_output();
  if (why.empty()) why = growth_.check_shape_readers();
  if (why.empty()) why = plan_columns();
  if (!why.empty() || grows_ == Grows::kWidth) return why;
  return host.fused != nullptr ? plan_operator() : plan_scores();
}

Growth AttentionMerger::growth_of(const Projection& p) const {
  if (grows_ == Grows::kHeads) return {p.head_stride, p.heads, times_, per_};
  return {p.element_stride, p.width, times_, per_};
}

std::string AttentionMerger::plan_projection(std::size_t role) {
  const Projection& p = *host_.projections()[role];
  const auto path = paths_.to_product(p);
  if (!path) return "its heads cannot be followed";
  const Growth growth = growth_of(p);
  const std::int64_t end = growth.stride * growth.size;  // what lies beyond moves apart
  Columns& columns = columns_[role];
  columns = {p.offset, p.head_stride, p.element_stride};
  // An offset inside the dimension tells q, k and v of one head apart.
  const bool inside =
      grows_ == Grows::kHeads && p.head_stride > p.width && p.element_stride == 1 && p.offset < p.head_stride;
  for (std::int64_t* place : {&columns.head_stride, &columns.element_stride, &columns.offset}) {
    if (place == &columns.offset ? inside : *place < end) continue;
    if (!growth.divides(*place)) return "the columns of its heads are not understood";
    *place = growth.grown(*place);
  }
  if (role == 0) head_axis_ = HeadGrowth::growing_axis(path->last(), {p.head_stride, p.heads, 1, 1});
  return growth_.plan(*path, *p.linear->output, growth);
}

std::string AttentionMerger::plan_output() {
  const auto path = paths_.to_output(host_.attention);
  if (!path) return "its output cannot be followed";
  for (const HeadStep& step : path->steps) passed_.push_back(step.node);
  const std::int64_t width = host_.attention.value_width;
  const Growth growth =
      grows_ == Grows::kHeads ? Growth{width, host_.attention.heads, times_, per_} : Growth{1, width, times_, per_};
  return growth_.plan(*path, *host_.attention.context, growth);
}

// Every column of the host's Linears is written once.
std::string AttentionMerger::plan_columns() {
  for (std::size_t role = 0; role < 3; ++role) {
    const Linear& linear = *host_.projections()[role]->linear;
    const auto known = std::find_if(shared_.begin(), shared_.end(),
                                    [&](const Shared& each) { return each.linear->product == linear.product; });
    if (known != shared_.end()) {
      known->roles.push_back(role);
    } else {
      Shared& fresh = shared_.emplace_back();
      fresh.linear = &linear;
      fresh.roles = {role};
    }
  }
  for (const Shared& shared : shared_) {
    if (std::string why = check_bijection(shared); !why.empty()) return why;
  }
  return {};
}

std::string AttentionMerger::check_bijection(const Shared& shared) const {
  if (shared.linear->out % per_ != 0) return "the heads do not divide its columns";
  std::vector<int> written(static_cast<std::size_t>(times(shared.linear->out)), 0);
  for (const std::size_t role : shared.roles) {
    const Projection& p = *host_.projections()[role];
    const bool heads = grows_ == Grows::kHeads;
    for (std::int64_t head = 0; head < (heads ? times(p.heads) : p.heads); ++head) {
      for (std::int64_t element = 0; element < (heads ? p.width : times(p.width)); ++element) {
        const std::int64_t at = columns_[role].at(head, element);
        if (at < 0 || at >= static_cast<std::int64_t>(written.size())) return "its columns are not understood";
        ++written[static_cast<std::size_t>(at)];
      }
    }
  }
  const bool once = std::all_of(written.begin(), written.end(), [](int count) { return count == 1; });
  return once ? "" : "its Linears make more than q, k and v";
}

// Between the products only element-wise operators may stand, and masks may not tell heads apart.
std::string AttentionMerger::plan_scores() {
  if (head_axis_ < 3) return "its heads are not before positions";
  if (std::string why = find_score_nodes(host_.attention, passed_, score_nodes_); !why.empty()) return why;
  return check_masks(head_axis_, head_axis_);
}

std::string AttentionMerger::check_masks(int head_axis, int least_rank) const {
  for (const Value* mask : host_.attention.masks) {
    const auto rank = mask->rank();
    if (!rank) return "the shape of its mask is not known";
    if (*rank < least_rank) continue;
    if ((*mask->type().shape)[static_cast<std::size_t>(*rank - head_axis)].value != 1)
      return "its mask has an axis of heads";
  }
  return {};
}

// Masks of three dimensions begin with heads in ai.onnx Attention, with the batch in MultiHeadAttention.
std::string AttentionMerger::plan_operator() const {
  const Node& node = *host_.attention.fused;
  for (const char* name : {"num_heads", "q_num_heads", "kv_num_heads"}) {
    if (node.attr_int(name, 0) % per_ != 0) return "the heads do not divide those of " + node.label();
  }
  return check_masks(3, node.domain().empty() ? 3 : 4);
}

void AttentionMerger::grow_operator() const {
  Node& node = *host_.attention.fused;
  for (const char* name : {"num_heads", "q_num_heads", "kv_num_heads"}) {
    if (node.attr_int(name, 0) > 0) node.set_attribute(name, times(node.attr_int(name, 0)));
  }
}

bool AttentionMerger::differs(std::size_t role) const {
  return std::any_of(group_.begin(), group_.end(), [&](const AttentionBranch& branch) {
    return !same_input(host_.inputs[role], branch.inputs[role]);
  });
}

Status AttentionMerger::apply(Graph& graph) {
  for (Shared& shared : shared_) OF_TRY(fill(shared));
  OF_TRY(stack_output());
  growth_.apply(graph);
  for (const Node* node : score_nodes_) grow_score(*node);
  if (host_.attention.fused != nullptr) grow_operator();
  OF_TRY(write_packed_bias(graph));
  drop_factors(graph, host_.term);
  for (const Shared& shared : shared_) {
    if (shared.fold) OF_TRY(read_plain_norm(graph, host_.inputs[shared.roles.front()], *shared.linear));
    set_columns(*shared.linear->product->output(), shared.weight.cols);
    OF_TRY(replace_linear(graph, *shared.linear, shared.weight, shared.biased ? &shared.bias : nullptr));
  }
  OF_TRY(replace_linear(graph, *host_.attention.out, out_weight_, out_biased_ ? &out_bias_ : nullptr));
  return {};
}

// The columns of all branches at their places in one Linear of the host.
Status AttentionMerger::fill(Shared& shared) {
  shared.fold = differs(shared.roles.front());
  shared.weight = {shared.linear->in, times(shared.linear->out), {}};
  shared.weight.data.assign(static_cast<std::size_t>(shared.weight.rows * shared.weight.cols), 0.0);
  shared.bias.assign(static_cast<std::size_t>(shared.weight.cols), 0.0);
  for (const std::size_t role : shared.roles) {
    std::int64_t before = 0;
    for (std::size_t branch = 0; branch < group_.size(); ++branch) OF_TRY(fill(shared, role, branch, before));
  }
  return {};
}

// One branch; `before`: heads, or elements of a head, of the branches before it.
Status AttentionMerger::fill(Shared& shared, std::size_t role, std::size_t branch, std::int64_t& before) {
  const AttentionBranch& source = group_[branch];
  const Projection& p = *source.projections()[role];
  OF_ASSIGN(Matrix numbers, weight_matrix(*p.linear));
  OF_ASSIGN(Numbers shift, bias_vector(*p.linear));
  shared.biased = shared.biased || p.linear->bias != nullptr;
  if (shared.fold) {
    OF_TRY(fold_affine(*source.inputs[role].norm, numbers, shift));
    shared.biased = shared.biased || source.inputs[role].norm->bias != nullptr;
  }
  const double factor = role == 0 ? *source.attention.scale / *host_.attention.scale : 1.0;
  const bool heads = grows_ == Grows::kHeads;
  for (std::int64_t head = 0; head < p.heads; ++head) {
    for (std::int64_t element = 0; element < p.width; ++element) {
      const std::int64_t from = p.offset + head * p.head_stride + element * p.element_stride;
      const std::int64_t to =
          heads ? columns_[role].at(before + head, element) : columns_[role].at(head, before + element);
      for (std::int64_t row = 0; row < numbers.rows; ++row) shared.weight.at(row, to) = factor * numbers.at(row, from);
      shared.bias[static_cast<std::size_t>(to)] = factor * shift[static_cast<std::size_t>(from)];
    }
  }
  before += heads ? p.heads : p.width;
  return {};
}

// Rows of the output Linears by head, then by branch where heads grow wider.
Status AttentionMerger::stack_output() {
  const std::int64_t cols = host_.attention.out->out, width = host_.attention.value_width;
  const auto count = static_cast<std::int64_t>(group_.size());
  out_weight_ = {times(host_.attention.out->in), cols, {}};
  out_weight_.data.assign(static_cast<std::size_t>(out_weight_.rows * cols), 0.0);
  out_bias_.assign(static_cast<std::size_t>(cols), 0.0);
  std::int64_t before = 0;
  for (std::int64_t index = 0; index < count; ++index) {
    const AttentionBranch& branch = group_[static_cast<std::size_t>(index)];
    const Linear& out = *branch.attention.out;
    OF_ASSIGN(const Matrix numbers, weight_matrix(out));
    OF_ASSIGN(const Numbers shift, bias_vector(out));
    OF_ASSIGN(const Numbers factor, factor_of(branch.term, cols));
    for (std::int64_t row = 0; row < numbers.rows; ++row) {
      const std::int64_t wide = (row / width * count + index) * width + row % width;
      const std::int64_t to = grows_ == Grows::kHeads ? before + row : wide;
      for (std::int64_t col = 0; col < cols; ++col)
        out_weight_.at(to, col) = factor[static_cast<std::size_t>(col)] * numbers.at(row, col);
    }
    before += numbers.rows;
    for (std::size_t c = 0; c < out_bias_.size(); ++c) out_bias_[c] += factor[c] * shift[c];
    out_biased_ = out_biased_ || out.bias != nullptr;
  }
  return {};
}

// What MultiHeadAttention adds to q, k and v: [heads of q | of k | of v], the host's before the others'.
Status AttentionMerger::write_packed_bias(Graph& graph) {
  const bool any = std::any_of(group_.begin(), group_.end(),
                               [](const AttentionBranch& branch) { return branch.attention.packed_bias != nullptr; });
  if (!any) return {};
  std::array<Numbers, 3> parts;
  for (const AttentionBranch& branch : group_) {
    const Value* bias = branch.attention.packed_bias;
    Numbers given;
    if (bias != nullptr) {
      OF_ASSIGN(given, to_doubles(*bias->constant()));
    }
    std::size_t at = 0;
    for (std::size_t role = 0; role < 3; ++role) {
      const Projection& p = *branch.projections()[role];
      const double factor = role == 0 ? *branch.attention.scale / *host_.attention.scale : 1.0;
      for (std::int64_t i = 0; i < p.heads * p.width; ++i, ++at) {
        if (bias != nullptr && at >= given.size()) return fail(Code::kInvalidArgument, "a bias of another size");
        parts[role].push_back(bias == nullptr ? 0.0 : factor * given[at]);
      }
    }
  }
  Numbers all = parts[0];
  for (std::size_t role = 1; role < 3; ++role) all.insert(all.end(), parts[role].begin(), parts[role].end());
  Node& node = *host_.attention.fused;
  Value* old = node.input(3);
  const auto size = static_cast<std::int64_t>(all.size());
  OF_ASSIGN(Tensor tensor, from_doubles(node.input(0)->dtype(), {size}, all));
  graph.set_input(node, 3, add_constant(graph, std::move(tensor), node.output()->name() + "_bias"));
  if (old != nullptr) erase_if_unused(graph, *old);
  return {};
}

void AttentionMerger::grow_score(const Node& node) const {
  for (Value* output : node.outputs()) {
    if (output == nullptr) continue;
    Type type = output->type();
    if (!type.shape || static_cast<int>(type.shape->size()) < head_axis_) continue;
    Dim& dim = (*type.shape)[type.shape->size() - static_cast<std::size_t>(head_axis_)];
    dim = dim.known() && *dim.value % per_ == 0 ? Dim{times(*dim.value), "", ""} : Dim{};
    output->set_type(type);
  }
}

Status AttentionMerger::read_plain_norm(Graph& graph, const BranchInput& input, const Linear& linear) {
  auto known = std::find_if(plain_.begin(), plain_.end(), [&](const auto& each) { return each.first == input.value; });
  if (known == plain_.end()) {
    OF_ASSIGN(Value * made, plain_norm(graph, *input.norm));
    known = plain_.insert(plain_.end(), {input.value, made});
  }
  graph.set_input(*linear.product, 0, known->second);
  erase_if_unused(graph, *input.value);
  return {};
}

}  // namespace onnxfold
