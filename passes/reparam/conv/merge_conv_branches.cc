// Add(BN(Conv(x, W1)), Mul(Conv(x, W2), s), x, ..) => Conv(x, W)
//
// Branches of one input that meet in a tree of Add, Sub, Sum and Mean, through BatchNormalization and factors and
// addends per channel on the way, become one Conv (ConvTranspose, Gemm): kernels of other sizes, dilations and pads are
// placed where their taps fall, fewer groups stand for more, an identity is a kernel with one 1, an AveragePool one of
// equal numbers. W = sum s_i W_i, b = sum s_i b_i + the rest, in double, rounded once. Output positions must agree for
// every size of image (stride, slack: passes/reparam/conv/conv_geometry.h); branches that something else reads stay;
// work may grow by max-extra-work multiply-adds per element for each addition saved. Branches of other inputs stay and
// are added. RepVGG (arXiv 2101.03697), ACNet (1908.03930), DBB (2103.13425). Rounding.
#include <algorithm>
#include <numeric>

#include "ir/match.h"
#include "passes/pass.h"
#include "passes/reparam/conv/branch_sum.h"
#include "passes/reparam/conv/conv_chain.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

using Numbers = std::vector<double>;

// One convolution, or two in a row, that give a branch; neither for an identity.
struct View {
  Value* input = nullptr;  // what the convolution reads
  Node* node = nullptr;
  std::optional<ConvChain> chain;
  std::optional<ConvShape> shape;
  std::int64_t work = 0;

  std::int64_t nodes() const { return node == nullptr ? 0 : chain ? 2 : 1; }
};

struct Branch {
  const BranchTerm* term = nullptr;
  std::vector<View> views;  // the shortest first
};

// Branches that one convolution computes, or one value that stays.
struct Cluster {
  std::vector<std::pair<const BranchTerm*, const View*>> parts;
  Value* input = nullptr;
  std::optional<ConvShape> shape;
  std::int64_t work = 0;

  const View& view() const { return *parts.front().second; }
  const BranchTerm& term() const { return *parts.front().first; }
};

bool all_equal(const Numbers& numbers, double value) {
  return std::all_of(numbers.begin(), numbers.end(), [value](double number) { return number == value; });
}

Branch branch_of(const BranchTerm& term, std::int64_t channels) {
  Node* node = term.value->producer();
  std::string why;
  const bool conv = term.only_here && node != nullptr && is_conv_like(*node);
  const auto shape = conv ? conv_shape(*node, why) : std::nullopt;
  const DType dtype = term.value->dtype();
  if (!shape || shape->out != channels || node->input(0)->dtype() != dtype ||
      (node->input(1) != nullptr && node->input(1)->dtype() != dtype)) {
    return {&term, {View{term.value, nullptr, std::nullopt, std::nullopt, 0}}};
  }
  Branch branch{&term, {View{node->input(0), node, std::nullopt, shape, shape->work()}}};
  if (const auto chain = conv_chain(*node, why)) {
    branch.views.push_back({chain->first->input(0), node, chain, chain->shape, chain->work()});
  }
  return branch;
}

class Plan {
 public:
  Plan(const BranchSum& sum, std::int64_t extra_work) : sum_(sum) {
    const auto channels = static_cast<std::int64_t>(sum.shift.size());
    extra_work_ = extra_work * channels;
    for (const BranchTerm& term : sum.terms) branches_.push_back(branch_of(term, channels));
    std::vector<std::size_t> order(branches_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto work = [this](std::size_t i) { return branches_[i].views.front().work; };
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return work(a) > work(b); });
    for (const std::size_t i : order) place(branches_[i], channels);
    std::stable_partition(clusters_.begin(), clusters_.end(),
                          [this](const Cluster& cluster) { return rewritten(cluster); });
    gains_ = !clusters_.empty() && rewritten(clusters_.front()) && passes() < passes_now();
  }

  bool gains() const { return gains_; }
  const std::vector<Cluster>& clusters() const { return clusters_; }
  // Is there a new convolution for it? Otherwise the value stays as it is, but for a factor.
  bool rewritten(const Cluster& cluster) const {
    const Node* node = cluster.view().node;
    if (node == nullptr) return false;
    return cluster.parts.size() > 1 || !all_equal(cluster.term().scale, 1.0) ||
           (!all_equal(sum_.shift, 0.0) && !node->is("AveragePool"));
  }

 private:
  void place(const Branch& branch, std::int64_t channels) {
    for (Cluster& cluster : clusters_) {
      for (const View& view : branch.views) {
        if (join(cluster, *branch.term, view, channels)) return;
      }
    }
    const View& view = branch.views.front();
    clusters_.push_back({{{branch.term, &view}}, view.input, view.shape, view.work});
  }

  bool join(Cluster& cluster, const BranchTerm& term, const View& view, std::int64_t channels) const {
    if (cluster.input != view.input || !cluster.shape) return false;
    const ConvShape shape = view.shape ? *view.shape : identity_shape(channels, cluster.shape->geometry);
    const auto joint = joint_shape(*cluster.shape, shape, spatial_lengths(*cluster.input));
    if (!joint || joint->work() > cluster.work + view.work + extra_work_) return false;
    cluster.shape = joint;
    cluster.work = std::max(joint->work(), cluster.work + view.work);
    cluster.parts.emplace_back(&term, &view);
    return true;
  }

  std::int64_t passes_now() const {
    std::int64_t count = sum_.passes;
    for (const Cluster& cluster : clusters_) {
      for (const auto& [term, view] : cluster.parts) count += view->nodes();
    }
    return count;
  }

  std::int64_t passes() const {
    auto count = static_cast<std::int64_t>(clusters_.size()) - 1;
    for (const Cluster& cluster : clusters_) {
      const Numbers& scale = cluster.term().scale;
      const bool conv = cluster.view().node != nullptr;
      count += conv || !(all_equal(scale, 1.0) || all_equal(scale, -1.0)) ? 1 : 0;
    }
    return count;
  }

  const BranchSum& sum_;
  std::int64_t extra_work_ = 0;
  std::vector<Branch> branches_;
  std::vector<Cluster> clusters_;  // those with new convolutions first
  bool gains_ = false;
};

Result<ConvKernel> kernel_of(const View& view, const ConvShape& whole) {
  if (view.node == nullptr) return identity_kernel(identity_shape(whole.out, whole.geometry));
  return view.chain ? conv_kernel(*view.chain) : conv_kernel(*view.node, *view.shape);
}

// The convolution of a cluster with `shift` added to its bias.
Result<ConvKernel> kernel_of(const Cluster& cluster, const Numbers& shift) {
  ConvKernel kernel = zero_kernel(*cluster.shape);
  for (const auto& [term, view] : cluster.parts) {
    OF_ASSIGN(const ConvKernel part, kernel_of(*view, kernel.shape));
    add_kernel(kernel, part, term->scale);
  }
  for (std::size_t c = 0; c < shift.size(); ++c) kernel.bias[c] += shift[c];
  return kernel;
}

class Rewrite {
 public:
  Rewrite(Graph& graph, Node& root) : graph_(graph), root_(root) {}

  Result<bool> run(const Plan& plan, const Numbers& shift) {
    std::vector<ConvKernel> kernels;
    for (const Cluster& cluster : plan.clusters()) {
      if (!plan.rewritten(cluster)) break;
      OF_ASSIGN(ConvKernel kernel, kernel_of(cluster, kernels.empty() ? shift : Numbers()));
      if (!fits(kernel, cluster.input->dtype())) return false;
      kernels.push_back(std::move(kernel));
    }
    Value* sum = nullptr;
    for (std::size_t i = 0; i < plan.clusters().size(); ++i) {
      const Cluster& cluster = plan.clusters()[i];
      const Type& type = cluster.term().value->type();
      if (i < kernels.size()) {
        OF_ASSIGN(Node * conv,
                  insert_conv(graph_, kernels[i], *cluster.input, {hint(), type}, graph_.unique_name(hint()), &root_));
        sum = sum == nullptr ? conv->output() : joined("Add", *sum, *conv->output());
        continue;
      }
      OF_ASSIGN(sum, with_value(*sum, cluster.term()));
    }
    return replace_and_erase(graph_, root_, *sum);
  }

 private:
  // Of values; a node takes the name of its value, for ONNX Runtime refuses two nodes of one name.
  std::string hint() const { return root_.output()->name() + "_merged"; }

  Value* joined(const char* op, Value& a, Value& b) {
    return graph_
        .insert({.op_type = op,
                 .inputs = {&a, &b},
                 .outputs = {{hint(), sum_type(a, b)}},
                 .attributes = {},
                 .domain = "",
                 .name = graph_.unique_name(hint())},
                &root_)
        ->output();
  }

  // Shapes are only known where nothing is widened.
  static Type sum_type(const Value& a, const Value& b) {
    return a.type() == b.type() ? a.type() : Type::tensor(a.dtype());
  }

  // sum + scale * value for a value that stays.
  Result<Value*> with_value(Value& sum, const BranchTerm& term) {
    if (all_equal(term.scale, 1.0)) return joined("Add", sum, *term.value);
    if (all_equal(term.scale, -1.0)) return joined("Sub", sum, *term.value);
    Dims dims{static_cast<std::int64_t>(term.scale.size())};
    dims.resize(static_cast<std::size_t>(*term.value->rank()) - 1, 1);
    OF_ASSIGN(Tensor factor, from_doubles(term.value->dtype(), std::move(dims), term.scale));
    Value* constant = add_constant(graph_, std::move(factor), hint() + "_scale");
    return joined("Add", sum, *joined("Mul", *term.value, *constant));
  }

  Graph& graph_;
  Node& root_;
};

class MergeConvBranches final : public Pass {
 public:
  explicit MergeConvBranches(const PassOptions& options) : extra_work_(options.integer("max-extra-work")) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool changed = false;
    const std::vector<Node*> nodes = graph.nodes();
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {  // the largest sums first
      if ((*node)->erased()) continue;
      const auto sum = branch_sum(**node);
      if (!sum) continue;
      const Plan plan(*sum, extra_work_);
      if (!plan.gains()) continue;
      const std::string label = (*node)->label();
      OF_ASSIGN(const bool merged, Rewrite(graph, **node).run(plan, sum->shift));
      if (!merged) context.skipped(label, "a merged weight is out of the range of its type");
      changed = changed || merged;
    }
    return changed;
  }

 private:
  std::int64_t extra_work_;
};

}  // namespace

std::unique_ptr<Pass> make_merge_conv_branches(const PassOptions& options) {
  return std::make_unique<MergeConvBranches>(options);
}

}  // namespace onnxfold
