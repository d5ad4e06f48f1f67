#include "passes/quantize/gptq_descent.h"

#include <algorithm>

#include "exec/gemm.h"
#include "exec/parallel.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kTileColumns = 128;

class Descent {
 public:
  Descent(const FloatRows& target, const SweepInputs& inputs, const GptqSettings& settings, SweptCodes& codes)
      : inputs_(inputs), settings_(settings), grid_(sweep_grid(settings.format)), codes_(codes), n_(target.cols) {
    moments_.assign(inputs.gram.data.begin(), inputs.gram.data.end());
    gradients_ = FloatRows(target.rows, n_);
    FloatRows difference = target;
    parallel_for(target.rows, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) subtract_codes(row, difference.row(row));
    });
    gemm(target.rows, n_, n_, 1.0F, difference.data.data(), n_, false, moments_.data(), n_, false, 0.0F,
         gradients_.data.data(), n_);
  }

  void round(bool refit) {
    const auto& blocks = inputs_.order.blocks;
    for (std::size_t first = 0; first < blocks.size();) {
      std::size_t last = first + 1;
      std::int64_t width = blocks[first].count;
      while (last < blocks.size() && width + blocks[last].count <= kTileColumns) width += blocks[last++].count;
      descend_tile(first, last, blocks[first].first, blocks[first].first + width, refit);
      first = last;
    }
  }

 private:
  void subtract_codes(std::int64_t row, float* values) const {
    for (const SweepOrder::Block& block : inputs_.order.blocks) {
      const float scale = codes_.scales.row(row)[block.index], zero = codes_.zeros.row(row)[block.index];
      for (std::int64_t j = block.first; j < block.first + block.count; ++j) {
        values[j] -= (codes_.codes.row(row)[j] - zero) * scale;
      }
    }
  }

  void descend_tile(std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end, bool refit) {
    moved_.resize(static_cast<std::size_t>(gradients_.rows * (end - begin)));
    const std::int64_t tiles = (gradients_.rows + kSweepRows - 1) / kSweepRows;
    parallel_for(tiles, 1, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t tile = from; tile < to; ++tile) {
        descend_rows(tile * kSweepRows, first, last, begin, end, refit);
      }
    });
    // The tile knows its own gradients already; computing them again here would round differently, not better.
    for (const auto& [from, to] : {std::pair{std::int64_t{0}, begin}, std::pair{end, n_}}) {
      if (from == to) continue;
      gemm(gradients_.rows, to - from, end - begin, 1.0F, moved_.data(), end - begin, false,
           moments_.data() + begin * n_ + from, n_, false, 1.0F, gradients_.data.data() + from, n_);
    }
  }

  void descend_rows(std::int64_t row, std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end,
                    bool refit) {
    const std::int64_t rows = std::min(kSweepRows, gradients_.rows - row), width = end - begin;
    const auto size = static_cast<std::size_t>(width * kSweepRows);
    std::vector<float> gradients(size), codes(size), moved(size);
    rows_to_tile(gradients_.row(row) + begin, n_, rows, width, gradients.data());
    rows_to_tile(codes_.codes.row(row) + begin, n_, rows, width, codes.data());
    for (std::size_t b = first; b < last; ++b) {
      const SweepOrder::Block& block = inputs_.order.blocks[b];
      const SweepBlock part{block.first - begin, block.count, width, moments_.data() + begin * (n_ + 1), n_};
      float scales[kSweepRows] = {}, zeros[kSweepRows] = {};
      for (std::int64_t r = 0; r < rows; ++r) {
        scales[r] = codes_.scales.row(row + r)[block.index];
        zeros[r] = codes_.zeros.row(row + r)[block.index];
      }
      descend_columns(gradients.data(), part, grid_, scales, zeros, refit, scale_rounding(settings_), codes.data(),
                      moved.data());
      for (std::int64_t r = 0; r < rows; ++r) codes_.scales.row(row + r)[block.index] = scales[r];
    }
    tile_to_rows(gradients.data(), rows, width, gradients_.row(row) + begin, n_);
    tile_to_rows(codes.data(), rows, width, codes_.codes.row(row) + begin, n_);
    tile_to_rows(moved.data(), rows, width, moved_.data() + row * width, width);
  }

  const SweepInputs& inputs_;
  const GptqSettings& settings_;
  const SweepGrid grid_;
  SweptCodes& codes_;
  const std::int64_t n_;
  std::vector<float> moments_;  // H in float
  FloatRows gradients_;         // (target - codes) H
  std::vector<float> moved_;    // of the tile, [rows, width]
};

}  // namespace

void descend_codes(const FloatRows& target, const SweepInputs& inputs, const GptqSettings& settings, int rounds,
                   bool refit, SweptCodes& codes) {
  Descent descent(target, inputs, settings, codes);
  for (int i = 0; i < rounds; ++i) descent.round(refit);
}

}  // namespace onnxfold
