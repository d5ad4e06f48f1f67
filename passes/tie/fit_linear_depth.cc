// y = x W_l => y = x (base + l / L slope) + (x A_l) B_l: layers as a linear function of depth (TLEG, arXiv 2312.05614).
//
// Conditions: a residual stream of equal blocks (layer_stack.h), and weights that lie on a line over depth by more than
// unrelated ones would (analysis/depth/linearity.h): two free numbers per element explain 2 / L of the energy of any L
// layers, and only the excess over that null counts. Base and slope are least squares over the layers, the correction
// is the truncated SVD of what is left (rank 0: none). Base and slope are stored once; each layer adds them up when it
// runs, so that fold-constants would write all layers out again: last pass of a recipe, or before roll-layers. Lossy.
#include <fmt/format.h>

#include <algorithm>

#include "analysis/algebra/low_rank.h"
#include "analysis/depth/linearity.h"
#include "passes/pass.h"
#include "passes/tie/layer_alignment.h"
#include "passes/tie/layer_stack.h"
#include "passes/tie/shared_weight.h"

namespace onnxfold {
namespace {

struct LinearRole {
  std::string role;
  std::vector<Linear> linears;  // by layer
  DepthLine line;
  std::vector<LowRank> corrections;  // by layer
};

double at_depth(std::size_t layer, std::size_t layers) {
  return static_cast<double>(layer) / static_cast<double>(layers);
}

Matrix on_line(const DepthLine& line, std::size_t layer, std::size_t layers) {
  return sum(line.base, line.slope, at_depth(layer, layers));
}

// base + t slope, made before the product that reads it.
Value* weight_at_depth(Graph& graph, const Node& product, Value* base, Value* slope, double t, DType dtype) {
  const auto depth = from_doubles(dtype, {}, std::vector<double>{t});
  Value* scalar = graph.add_initializer(base->name() + "_depth", *depth);
  NodeSpec scaled{"Mul", {slope, scalar}, {{slope->name() + "_part", slope->type()}}, {}, "", ""};
  Value* part = graph.insert(std::move(scaled), &product)->output();
  NodeSpec joined{"Add", {base, part}, {{base->name() + "_at_depth", base->type()}}, {}, "", ""};
  return graph.insert(std::move(joined), &product)->output();
}

class FitLinearDepth final : public Pass {
 public:
  explicit FitLinearDepth(const PassOptions& options)
      : rank_(options.integer("rank")),
        excess_(options.number("min-excess")),
        align_(options.text("align")),
        protect_first_(static_cast<std::size_t>(options.integer("protect-first"))),
        protect_last_(static_cast<std::size_t>(options.integer("protect-last"))) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    if (&graph != &context.model().graph()) return false;
    const std::unique_ptr<Model> student = context.model().clone();
    std::vector<StructureNote> notes;
    std::vector<LayerStack> stacks = layer_stacks(student->graph(), protect_first_, protect_last_, &notes);
    for (const StructureNote& note : notes) context.skipped(note.node, note.reason);
    if (stacks.empty()) context.skipped(graph.name, "no residual stream of equal blocks was found");
    if (align_ != "no") {
      for (const LayerStack& stack : stacks) {
        OF_ASSIGN(const AlignedUnits aligned, align_layers(*student, stack.blocks, align_));
        context.note("", fmt::format("hidden neurons of {} feed-forward layers and heads of {} attentions put in order",
                                     aligned.neurons, aligned.heads));
      }
      stacks = layer_stacks(student->graph(), protect_first_, protect_last_);
    }
    bool changed = false;
    for (const LayerStack& stack : stacks) {
      for (std::size_t role = 0; role < stack.roles.size(); ++role) {
        OF_ASSIGN(const bool fitted, fit_role(student->graph(), stack, role, context));
        changed = changed || fitted;
      }
    }
    if (changed) context.model().adopt_graph(*student);
    return changed;
  }

 private:
  Result<bool> fit_role(Graph& graph, const LayerStack& stack, std::size_t role, PassContext& context) const {
    LinearRole found{stack.roles[role], {}, {}, {}};
    std::vector<Matrix> weights;
    const std::size_t layers = stack.blocks.size();
    for (const auto& layer : stack.linears) {
      found.linears.push_back(layer[role]);
      OF_ASSIGN(Matrix weight, weight_matrix(layer[role]));
      weights.push_back(std::move(weight));
    }
    const std::string label = found.linears.front().product->label();
    if (layers < 3) {
      context.skipped(label, fmt::format("{} layers lie on a line whatever they are", layers));
      return false;
    }
    found.line = fit_depth_line(weights);
    const double null = 2 / static_cast<double>(layers);
    if (excess_over(null, found.line.explained) < excess_) {
      context.skipped(label, fmt::format("a line over depth explains {:.1f} % of {}, unrelated layers have {:.1f} %",
                                         100 * found.line.explained, found.role, 100 * null));
      return false;
    }
    for (std::size_t l = 0; rank_ > 0 && l < layers; ++l) {
      const Matrix rest = sum(weights[l], on_line(found.line, l, layers), -1);
      const bool nothing = frobenius_norm(rest) <= 1e-13 * frobenius_norm(weights[l]);
      found.corrections.push_back(nothing ? LowRank() : projected_low_rank(rest, nullptr, rank_));
    }
    const Tensor& stored = *found.linears.front().weight->constant();
    const std::int64_t width = stored.nbytes() / std::max<std::int64_t>(1, stored.size());
    const std::int64_t before = stored.nbytes() * static_cast<std::int64_t>(layers);
    OF_TRY(put(graph, found));
    context.applied(label,
                    fmt::format("{} of {} layers is base and slope: a line explains {:.1f} %, unrelated layers have "
                                "{:.1f} %",
                                found.role, layers, 100 * found.line.explained, 100 * null),
                    before, elements_of(found) * width);
    return true;
  }

  static std::int64_t elements_of(const LinearRole& found) {
    auto elements = static_cast<std::int64_t>(2 * found.line.base.data.size());
    for (const LowRank& pair : found.corrections) {
      elements += static_cast<std::int64_t>(pair.a.data.size() + pair.b.data.size());
    }
    return elements;
  }

  static Status put(Graph& graph, const LinearRole& found) {
    const DType dtype = found.linears.front().weight->dtype();
    const Dims dims = {found.line.base.rows, found.line.base.cols};
    OF_ASSIGN(const Tensor base_tensor, from_doubles(dtype, dims, found.line.base.data));
    Value* base = share_weight(graph, found.linears, base_tensor);
    const Node& first = *found.linears.front().product;
    const bool out_in = !first.is("MatMul") && first.attr_int("transB", 0) != 0;
    const Matrix stored = out_in ? transposed(found.line.slope) : found.line.slope;
    OF_ASSIGN(Tensor slope_tensor, from_doubles(dtype, {stored.rows, stored.cols}, stored.data));
    Value* slope = graph.add_initializer(base->name() + "_slope", std::move(slope_tensor));
    for (std::size_t l = 0; l < found.linears.size(); ++l) {
      const Linear& linear = found.linears[l];
      const double t = at_depth(l, found.linears.size());
      graph.set_input(*linear.product, 1, weight_at_depth(graph, *linear.product, base, slope, t, dtype));
      if (l >= found.corrections.size() || found.corrections[l].a.empty()) continue;
      const LowRank& pair = found.corrections[l];
      OF_ASSIGN(Tensor a, from_doubles(dtype, {pair.a.rows, pair.a.cols}, pair.a.data));
      OF_ASSIGN(Tensor b, from_doubles(dtype, {pair.b.rows, pair.b.cols}, pair.b.data));
      OF_TRY(add_correction(graph, linear, std::move(a), std::move(b)));
    }
    return {};
  }

  const std::int64_t rank_;
  const double excess_;
  const std::string align_;
  const std::size_t protect_first_, protect_last_;
};

}  // namespace

std::unique_ptr<Pass> make_fit_linear_depth(const PassOptions& options) {
  return std::make_unique<FitLinearDepth>(options);
}

}  // namespace onnxfold
