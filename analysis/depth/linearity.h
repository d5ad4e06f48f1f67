// How far the weights of consecutive blocks lie on a line over depth: W_l = base + t_l * slope, t_l = l / L.
//
// The constraint that TLEG trains with (arXiv 2312.05614), fitted to a given model by least squares, element by
// element. Two free numbers per element explain 2/L of the energy of L independent layers by themselves, and 1/(L-1) of
// what is left about their mean: only what lies above these nulls means anything. Hidden neurons may stand in any order
// in each layer, so they are also put in the order of the layer before (best assignment on incoming and outgoing
// weights) and fitted again; the channels of the residual stream have one basis and stay.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/algebra/matrix.h"
#include "analysis/structure/blocks.h"

namespace onnxfold {

// One weight of each of several blocks of one stream: the same role, dimensions and element type.
struct DepthFamily {
  std::string role;                 // "attention.query", "feed-forward.down", "attention.norm gain"...
  std::vector<std::size_t> blocks;  // indices into BlockView::blocks, in order
  std::vector<Value*> weights;      // constants as stored, one per block; never shared between blocks
  std::optional<int> neurons;       // which axis holds hidden neurons of a feed-forward layer (0 or 1)
  std::size_t sublayer = 0;         // index into Block::sublayers: families of one feed-forward layer share it
};
// Of every stream with at least `least` blocks that have it. Blocks whose dimensions differ from the stream's most
// common ones are left out.
std::vector<DepthFamily> depth_families(const BlockView& view, std::size_t least = 3);

// Least squares over layers. REQUIRES equal dimensions and at least two layers.
struct DepthLine {
  Matrix base, slope;    // W_l ~ base + l / L * slope
  double explained = 0;  // 1 - residual squares / all squares
  double centred = 0;    // 1 - residual squares / squares about the mean over layers
};
DepthLine fit_depth_line(const std::vector<Matrix>& layers);

// For each layer which of its neurons goes where, so that they follow those of the layer before (result of the first:
// the identity): order[l][i] is the neuron of layer l that is put at place i. `families` are those of one feed-forward
// layer (equal `sublayer`). Errors: those of reading weights.
Result<std::vector<std::vector<std::int64_t>>> neuron_orders(const std::vector<DepthFamily>& families);

// Where a line over depth is worth storing: what it explains of what the null leaves unexplained, (explained - null) /
// (1 - null), is at least this. The default of fit-linear-depth, and what analyze --linearity says.
inline constexpr double kWorthALine = 0.5;
double excess_over(double null, double explained);

struct Linearity {
  std::string role;
  std::size_t layers = 0;
  std::int64_t parameters = 0;  // of all layers
  double explained = 0, null = 0;
  double centred = 0, centred_null = 0;
  std::optional<double> aligned;  // `explained` with units in order; none where there are none or too many
};
// One row per family. `aligned`: the same model with the units of its layers in order already (neurons, heads), of
// which `aligned` of the rows is told; null: neurons are put in order here. Errors: those of reading weights.
Result<std::vector<Linearity>> measure_linearity(const BlockView& view, const BlockView* aligned = nullptr);

}  // namespace onnxfold
