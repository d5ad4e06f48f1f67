#include "passes/quantize/gptq_sweep.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "exec/gemm.h"
#include "exec/parallel.h"
#include "ir/numeric.h"
#include "passes/quantize/code_kernels.h"
#include "passes/quantize/gptq_descent.h"
#include "passes/quantize/gptq_kernels.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kTileColumns = 128;  // whole blocks up to about this many are swept before the rest hears of it

// In the order of the sweep.
FloatRows reordered(const FloatRows& weight, const SweepOrder& order) {
  FloatRows out(weight.rows, weight.cols);
  parallel_for(weight.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t j = 0; j < weight.cols; ++j) {
        out.row(row)[j] = weight.row(row)[order.columns[static_cast<std::size_t>(j)]];
      }
    }
  });
  return out;
}

class Sweep {
 public:
  Sweep(FloatRows values, const SweepInputs& inputs, const GptqSettings& settings, SweptCodes& out)
      : values_(std::move(values)),
        inputs_(inputs),
        settings_(settings),
        grid_(sweep_grid(settings.format)),
        out_(out) {}

  void run() {
    const auto& blocks = inputs_.order.blocks;
    for (std::size_t first = 0; first < blocks.size();) {
      const std::size_t last = tile_end(blocks, first);
      const std::int64_t begin = blocks[first].first, end = blocks[last - 1].first + blocks[last - 1].count;
      errors_.resize(static_cast<std::size_t>(values_.rows * (end - begin)));
      const std::int64_t tiles = (values_.rows + kSweepRows - 1) / kSweepRows;
      parallel_for(tiles, 1, [&](std::int64_t from, std::int64_t to) {
        for (std::int64_t tile = from; tile < to; ++tile) sweep_tile(tile * kSweepRows, first, last, begin, end);
      });
      spread(begin, end);
      first = last;
    }
  }

 private:
  static std::size_t tile_end(const std::vector<SweepOrder::Block>& blocks, std::size_t first) {
    std::size_t last = first + 1;
    std::int64_t width = blocks[first].count;
    while (last < blocks.size() && width + blocks[last].count <= kTileColumns) width += blocks[last++].count;
    return last;
  }

  void sweep_tile(std::int64_t row, std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end) {
    const std::int64_t rows = std::min(kSweepRows, values_.rows - row), width = end - begin;
    const auto size = static_cast<std::size_t>(width * kSweepRows);
    std::vector<float> tile(size), codes(size), errors(size);
    rows_to_tile(values_.row(row) + begin, values_.cols, rows, width, tile.data());
    for (std::size_t b = first; b < last; ++b) {
      const SweepOrder::Block& block = inputs_.order.blocks[b];
      const SweepBlock part{block.first - begin, block.count, width,
                            inputs_.factor.upper.data() + begin * (values_.cols + 1), values_.cols};
      float scales[kSweepRows], zeros[kSweepRows];
      (settings_.sweep ? search_scales_by_sweep : search_scales)(tile.data(), part, grid_, scales, zeros);
      const auto round_scale = scale_rounding(settings_);
      for (float& scale : scales) scale = round_scale(scale);
      sweep_columns(tile.data(), part, grid_, scales, zeros, codes.data(), errors.data());
      for (std::int64_t r = 0; r < rows; ++r) {
        out_.scales.row(row + r)[block.index] = scales[r];
        out_.zeros.row(row + r)[block.index] = zeros[r];
      }
    }
    tile_to_rows(codes.data(), rows, width, out_.codes.row(row) + begin, values_.cols);
    tile_to_rows(errors.data(), rows, width, errors_.data() + row * width, width);
  }

  // Columns after the tile take over their share of its errors.
  void spread(std::int64_t begin, std::int64_t end) {
    const std::int64_t n = values_.cols;
    if (end == n) return;
    gemm(values_.rows, n - end, end - begin, -1.0F, errors_.data(), end - begin, false,
         inputs_.factor.upper.data() + begin * n + end, n, false, 1.0F, values_.data.data() + end, n);
  }

  FloatRows values_;
  const SweepInputs& inputs_;
  const GptqSettings& settings_;
  const SweepGrid grid_;
  SweptCodes& out_;
  std::vector<float> errors_;  // of the tile, [rows, width]
};

BlockCodes stored_codes(const SweptCodes& swept, const SweepOrder& order, const BlockFormat& format) {
  BlockCodes out;
  out.rows = swept.codes.rows;
  out.cols = swept.codes.cols;
  out.block = format.length(out.cols);
  out.blocks = static_cast<std::int64_t>(order.blocks.size());
  out.codes.resize(static_cast<std::size_t>(out.rows * out.blocks * out.block));
  out.scales = swept.scales.data;
  if (!format.symmetric) out.zeros.resize(out.scales.size());
  for (std::size_t i = 0; i < out.zeros.size(); ++i) out.zeros[i] = static_cast<std::uint8_t>(swept.zeros.data[i]);
  parallel_for(out.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      std::uint8_t* codes = out.codes.data() + row * out.blocks * out.block;
      for (std::int64_t j = 0; j < out.cols; ++j) {
        codes[order.columns[static_cast<std::size_t>(j)]] = static_cast<std::uint8_t>(swept.codes.row(row)[j]);
      }
    }
  });
  return out;
}

template <ScaleForm form, DType type>
float rounded_scale(float scale) {
  round_scales(&scale, 1, form, type);
  return scale;
}
float same_scale(float scale) { return scale; }

}  // namespace

SweepGrid sweep_grid(const BlockFormat& format) {
  const BlockGrid grid(format);
  return {grid.low, grid.high, grid.middle, grid.symmetric, grid.bits};
}

float (*scale_rounding(const GptqSettings& settings))(float) {
  const ScaleForm form = settings.format.scales;
  if (form == ScaleForm::kInt8) return same_scale;  // rounded together, at the end
  if (form == ScaleForm::kPowerOfTwo) return rounded_scale<ScaleForm::kPowerOfTwo, DType::kFloat32>;
  if (form == ScaleForm::kFloat16) return rounded_scale<ScaleForm::kFloat16, DType::kFloat32>;
  if (settings.scale_type == DType::kFloat16) return rounded_scale<ScaleForm::kFull, DType::kFloat16>;
  if (settings.scale_type == DType::kBFloat16) return rounded_scale<ScaleForm::kFull, DType::kBFloat16>;
  return same_scale;
}

void rows_to_tile(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t width, float* tile) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t j = 0; j < width; ++j) tile[j * kSweepRows + r] = from[r * stride + j];
  }
}

void tile_to_rows(const float* tile, std::int64_t rows, std::int64_t width, float* to, std::int64_t stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t j = 0; j < width; ++j) to[r * stride + j] = tile[j * kSweepRows + r];
  }
}

SweepOrder sweep_order(const Matrix& gram, std::int64_t block) {
  const std::int64_t n = gram.rows, count = (n + block - 1) / block;
  std::vector<double> mean(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t b = i / block;
    mean[static_cast<std::size_t>(b)] += gram.at(i, i) / static_cast<double>(std::min(block, n - b * block));
  }
  std::vector<std::int64_t> by_size(static_cast<std::size_t>(count));
  std::iota(by_size.begin(), by_size.end(), 0);
  std::stable_sort(by_size.begin(), by_size.end(), [&](std::int64_t a, std::int64_t b) {
    return mean[static_cast<std::size_t>(a)] > mean[static_cast<std::size_t>(b)];
  });
  SweepOrder order;
  for (const std::int64_t b : by_size) {
    const auto first = static_cast<std::int64_t>(order.columns.size());
    for (std::int64_t i = b * block; i < std::min(n, (b + 1) * block); ++i) order.columns.push_back(i);
    order.blocks.push_back({first, static_cast<std::int64_t>(order.columns.size()) - first, b});
    std::stable_sort(order.columns.begin() + first, order.columns.end(),
                     [&](std::int64_t i, std::int64_t j) { return gram.at(i, i) > gram.at(j, j); });
  }
  return order;
}

Result<SweepInputs> sweep_inputs(const Matrix& gram, std::int64_t block, double damping) {
  SweepInputs inputs;
  inputs.order = sweep_order(gram, block);
  const std::int64_t n = gram.rows;
  inputs.gram = Matrix(n, n);
  parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = inputs.order.columns[static_cast<std::size_t>(i)];
      for (std::int64_t j = 0; j < n; ++j) {
        inputs.gram.at(i, j) = gram.at(row, inputs.order.columns[static_cast<std::size_t>(j)]);
      }
    }
  });
  OF_ASSIGN(inputs.factor, inverse_factor(inputs.gram, damping));
  double mean = 0;
  for (std::int64_t i = 0; i < n; ++i) mean += inputs.gram.at(i, i) / static_cast<double>(n);
  if (mean <= 0) mean = 1;
  for (std::int64_t i = 0; i < n; ++i) {
    double& diagonal = inputs.gram.at(i, i);
    diagonal = (diagonal > 0 ? diagonal : mean) + inputs.factor.damping * mean;
  }
  return inputs;
}

Result<BlockCodes> gptq_sweep(const FloatRows& weight, const SweepInputs& inputs, const GptqSettings& settings) {
  for (const float value : weight.data) {
    if (!std::isfinite(value)) {
      return fail(Code::kInvalidArgument, "holds NaN or infinity; exclude it or repair the model");
    }
  }
  const auto blocks = static_cast<std::int64_t>(inputs.order.blocks.size());
  SweptCodes swept{FloatRows(weight.rows, weight.cols), FloatRows(weight.rows, blocks), FloatRows(weight.rows, blocks)};
  const FloatRows target = reordered(weight, inputs.order);
  Sweep(target, inputs, settings, swept).run();
  if (settings.descent > 0) descend_codes(target, inputs, settings, settings.descent, true, swept);
  if (settings.format.scales == ScaleForm::kInt8) {
    // Blocks that share a factor were met at different times: round them together, then let the codes settle.
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      round_scales(swept.scales.row(row), blocks, ScaleForm::kInt8, settings.scale_type);
    }
    descend_codes(target, inputs, settings, 1, false, swept);
  }
  return stored_codes(swept, inputs.order, settings.format);
}

FloatRows dequantized(const BlockCodes& codes, const BlockFormat& format) {
  FloatRows out(codes.rows, codes.cols);
  const float middle = BlockGrid(format).middle;
  parallel_for(codes.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      for (std::int64_t block = 0; block < codes.blocks; ++block) {
        const auto at = static_cast<std::size_t>(row * codes.blocks + block);
        const float zero = codes.zeros.empty() ? middle : static_cast<float>(codes.zeros[at]);
        const std::int64_t col = block * codes.block, count = std::min(codes.block, codes.cols - col);
        decode_codes(codes.codes.data() + (row * codes.blocks + block) * codes.block, count, zero, codes.scales[at],
                     out.row(row) + col);
      }
    }
  });
  return out;
}

}  // namespace onnxfold
