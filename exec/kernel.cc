#include "exec/kernel.h"

#include <fmt/format.h>

namespace onnxfold {

Status KernelContext::need(std::size_t required) const {
  for (std::size_t i = 0; i < required; ++i) {
    if (!has(i)) return invalid(fmt::format("input {} is missing", i));
    if (!inputs_[i].is_array()) return invalid(fmt::format("input {} is not a tensor", i));
  }
  return {};
}

void KernelContext::set(std::size_t i, Datum value) {
  // Capacity was reserved by the constructor, so references handed out by out() stay valid.
  if (i >= outputs_.size()) outputs_.resize(i + 1);
  outputs_[i] = std::move(value);
}

Array& KernelContext::out(std::size_t i, DType dtype, Dims dims) {
  set(i, Datum(make(dtype, std::move(dims))));
  return outputs_[i].array;
}

Array& KernelContext::out_over(std::size_t i, std::size_t in, DType dtype, Dims dims) {
  const bool fits = has(in) && inputs_[in].is_array() && inputs_[in].array.unique() &&
                    inputs_[in].array.storage() == storage_for(dtype, precision_) && inputs_[in].array.dims() == dims &&
                    storage_bytes(inputs_[in].array.storage()) > 0;
  if (!fits) return out(i, dtype, std::move(dims));
  set(i, Datum(inputs_[in].array.retyped(dtype)));
  return outputs_[i].array;
}

tl::unexpected<Error> KernelContext::unsupported(std::string message) const {
  return fail(Code::kUnsupported, fmt::format("node \"{}\" ({}): {}", node_.label(), node_.op_type(), message));
}

tl::unexpected<Error> KernelContext::invalid(std::string message) const {
  return fail(Code::kInvalidArgument, fmt::format("node \"{}\" ({}): {}", node_.label(), node_.op_type(), message));
}

}  // namespace onnxfold
