// One function per file of this folder, in alphabetical order; exec/kernel_table.cc lists them again and nothing else.
#pragma once

#include "exec/kernel.h"

namespace onnxfold {

KernelRows attention_kernels();
KernelRows attention_ort_kernels();
KernelRows attention_packed_kernels();
KernelRows cast_kernels();
KernelRows channel_norm_kernels();
KernelRows col2im_kernels();
KernelRows concat_kernels();
KernelRows constant_kernels();
KernelRows control_flow_kernels();
KernelRows conv_kernels();
KernelRows conv_transpose_kernels();
KernelRows cumulative_kernels();
KernelRows deform_conv_kernels();
KernelRows detection_kernels();
KernelRows determinant_kernels();
KernelRows dropout_kernels();
KernelRows einsum_kernels();
KernelRows elementwise_binary_kernels();
KernelRows elementwise_unary_kernels();
KernelRows expand_kernels();
KernelRows gather_block_quantized_kernels();
KernelRows gather_kernels();
KernelRows gelu_ort_kernels();
KernelRows grid_sample_kernels();
KernelRows gru_kernels();
KernelRows integer_products_kernels();
KernelRows layer_norm_kernels();
KernelRows lstm_kernels();
KernelRows matmul_kernels();
KernelRows matmul_nbits_kernels();
KernelRows order_kernels();
KernelRows pool_kernels();
KernelRows quantize_kernels();
KernelRows quantized_ort_kernels();
KernelRows recurrent_kernels();
KernelRows reduce_kernels();
KernelRows resize_kernels();
KernelRows roi_kernels();
KernelRows rotary_kernels();
KernelRows scatter_kernels();
KernelRows sequence_kernels();
KernelRows shape_kernels();
KernelRows signal_kernels();
KernelRows softmax_kernels();
KernelRows text_kernels();
KernelRows transpose_kernels();
KernelRows unpool_kernels();

}  // namespace onnxfold
