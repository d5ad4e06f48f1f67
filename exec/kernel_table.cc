#include <algorithm>
#include <map>
#include <utility>

#include "exec/kernel.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

using Key = std::pair<std::string_view, std::string_view>;  // domain, operator
using Table = std::map<Key, std::vector<const KernelRow*>>;

// clang-format off
constexpr KernelRows (*kFiles[])() = {
    attention_kernels,
    attention_ort_kernels, attention_packed_kernels,
    cast_kernels,
    channel_norm_kernels,
    col2im_kernels,
    concat_kernels,
    constant_kernels,
    control_flow_kernels,
    conv_kernels,
    conv_transpose_kernels,
    cumulative_kernels,
    deform_conv_kernels,
    detection_kernels,
    determinant_kernels,
    dropout_kernels,
    einsum_kernels,
    elementwise_binary_kernels,
    elementwise_unary_kernels,
    expand_kernels,
    gather_block_quantized_kernels,
    gather_kernels,
    gelu_ort_kernels,
    grid_sample_kernels,
    gru_kernels,
    integer_products_kernels,
    layer_norm_kernels,
    lstm_kernels,
    matmul_kernels,
    matmul_nbits_kernels,
    order_kernels,
    pool_kernels,
    quantize_kernels,
    quantized_ort_kernels,
    recurrent_kernels,
    reduce_kernels,
    resize_kernels,
    roi_kernels,
    rotary_kernels,
    scatter_kernels,
    sequence_kernels,
    shape_kernels,
    signal_kernels,
    softmax_kernels,
    text_kernels,
    transpose_kernels,
    unpool_kernels,
};
// clang-format on

const Table& table() {
  static const Table built = [] {
    Table rows;
    for (KernelRows (*file)() : kFiles) {
      for (const KernelRow& row : file()) rows[{row.domain, row.op_type}].push_back(&row);
    }
    for (auto& [key, versions] : rows) {
      std::stable_sort(versions.begin(), versions.end(),
                       [](const KernelRow* a, const KernelRow* b) { return a->since < b->since; });
    }
    return rows;
  }();
  return built;
}

}  // namespace

const KernelRow* find_kernel(std::string_view domain, std::string_view op_type, std::int64_t opset) {
  if (domain == "ai.onnx") domain = "";
  const auto found = table().find({domain, op_type});
  if (found == table().end()) return nullptr;
  const KernelRow* best = nullptr;
  for (const KernelRow* row : found->second) {
    if (row->since <= opset) best = row;
  }
  return best;
}

std::vector<const KernelRow*> all_kernels() {
  std::vector<const KernelRow*> rows;
  for (const auto& [key, versions] : table()) rows.insert(rows.end(), versions.begin(), versions.end());
  return rows;
}

}  // namespace onnxfold
