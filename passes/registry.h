// The table of passes, joined from one table a family (passes/<family>/table.cc). It drives --pass, recipes, `onnxfold
// passes`, help and the README's table.
#pragma once

#include <span>

#include "passes/pass.h"

namespace onnxfold {

std::span<const PassInfo> all_passes();
const PassInfo* find_pass(std::string_view name);
// Nearest pass name for "did you mean"; empty when nothing is near.
std::string nearest_pass(std::string_view name);

}  // namespace onnxfold
