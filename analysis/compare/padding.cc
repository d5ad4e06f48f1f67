#include "analysis/compare/padding.h"

#include <algorithm>

namespace onnxfold {
namespace {

bool of_decoder(std::string_view name) { return name.find("decoder") != std::string_view::npos; }

}  // namespace

RowMask output_padding(const Model& model, const Feeds& feeds) {
  const auto& inputs = model.graph().inputs();
  const bool decodes =
      std::any_of(inputs.begin(), inputs.end(), [](const Value* input) { return of_decoder(input->name()); });
  if (!decodes) return row_mask(model, feeds);
  Feeds own;
  for (const auto& [name, datum] : feeds) {
    if (of_decoder(name)) own.emplace(name, datum);
  }
  return row_mask(model, own);
}

bool covers(const RowMask& mask, const Array& output) {
  return !mask.keep.empty() && mask.dims.size() == 2 && output.rank() == 3 && output.dim(0) == mask.dims[0] &&
         output.dim(1) == mask.dims[1];
}

}  // namespace onnxfold
