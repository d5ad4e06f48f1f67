// One function per file of this folder, in alphabetical order; exec/kernel_table.cc lists them again and nothing else.
#pragma once

#include "exec/kernel.h"

namespace onnxfold {

KernelRows shape_kernels();

}  // namespace onnxfold
