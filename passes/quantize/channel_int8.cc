#include "passes/quantize/channel_int8.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace onnxfold {

Result<ChannelInt8> quantize_channels(const Tensor& weight, std::int64_t axis, int limit,
                                      std::span<const float> least) {
  OF_ASSIGN(const std::vector<float> values, to_floats(weight));
  const Dims& dims = weight.dims();
  const std::int64_t channels = dims[static_cast<std::size_t>(axis)];
  std::int64_t inner = 1;
  for (std::size_t i = static_cast<std::size_t>(axis) + 1; i < dims.size(); ++i) inner *= dims[i];
  const auto channel_of = [&](std::size_t i) {
    return static_cast<std::size_t>(static_cast<std::int64_t>(i) / inner % channels);
  };
  ChannelInt8 out;
  std::vector<float> largest(static_cast<std::size_t>(channels));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return fail(Code::kInvalidArgument, "holds NaN or infinity");
    largest[channel_of(i)] = std::max(largest[channel_of(i)], std::fabs(values[i]));
  }
  for (const float most : largest) out.scales.push_back(most > 0 ? most / static_cast<float>(limit) : 1.0F);
  for (std::size_t c = 0; c < least.size(); ++c) {
    out.widened = out.widened || out.scales[c] < least[c];
    out.scales[c] = std::max(out.scales[c], least[c]);
  }
  Buffer codes(values.size());
  const auto end = static_cast<float>(limit);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float code = std::clamp(std::nearbyint(values[i] / out.scales[channel_of(i)]), -end, end);
    codes[i] = static_cast<std::byte>(static_cast<std::int8_t>(code));
  }
  out.codes = Tensor::owned(DType::kInt8, dims, std::move(codes));
  return out;
}

Result<std::vector<float>> least_scales(const Tensor& bias, float input_scale) {
  OF_ASSIGN(const std::vector<float> values, to_floats(bias));
  std::vector<float> least;
  for (const float value : values) {
    if (!std::isfinite(value)) return fail(Code::kInvalidArgument, "holds NaN or infinity");
    const double scale = std::fabs(static_cast<double>(value)) / (0x1p30 * static_cast<double>(input_scale));
    least.push_back(static_cast<float>(std::min(scale, 3e38)));
  }
  return least;
}

Result<Tensor> transposed_codes(const Tensor& codes) {
  OF_ASSIGN(const Bytes bytes, codes.bytes());
  const auto rows = static_cast<std::size_t>(codes.dims()[0]), cols = static_cast<std::size_t>(codes.dims()[1]);
  Buffer out(bytes.size());
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < cols; ++j) out[j * rows + i] = bytes.span()[i * cols + j];
  }
  return Tensor::owned(DType::kInt8, {codes.dims()[1], codes.dims()[0]}, std::move(out));
}

Tensor int32_bias(const std::vector<float>& bias, const std::vector<float>& scales, float input_scale) {
  std::vector<std::int32_t> codes;
  for (std::size_t i = 0; i < bias.size(); ++i) {
    const double step = static_cast<double>(scales[i]) * static_cast<double>(input_scale);
    constexpr double kEnd = std::numeric_limits<std::int32_t>::max();
    codes.push_back(
        static_cast<std::int32_t>(std::clamp(std::nearbyint(static_cast<double>(bias[i]) / step), -kEnd, kEnd)));
  }
  return Tensor::of<std::int32_t>({static_cast<std::int64_t>(codes.size())}, codes);
}

}  // namespace onnxfold
