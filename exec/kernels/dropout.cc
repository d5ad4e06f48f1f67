// Dropout as inference runs it: the identity, and a mask of ones.
#include <algorithm>

#include "exec/dispatch.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

Result<bool> drops(const KernelContext& ctx) {
  if (ctx.opset() < 7) return ctx.attr("is_test", std::int64_t{0}) == 0 && ctx.attr("ratio", 0.5F) > 0;
  if (ctx.opset() < 12 || !ctx.has(2)) return false;
  OF_ASSIGN(const std::vector<double> training, to_doubles(ctx.in(2)));
  std::vector<double> ratio = {0.5};
  if (ctx.has(1)) {
    OF_ASSIGN(ratio, to_doubles(ctx.in(1)));
  }
  return !training.empty() && training[0] != 0 && !ratio.empty() && ratio[0] != 0;
}

Status dropout(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  OF_ASSIGN(const bool random, drops(ctx));
  if (random) return ctx.unsupported("training mode, whose result is random");
  const Array x = ctx.in(0);
  if (ctx.wants(1)) {
    Array& mask = ctx.out(1, ctx.opset() < 10 ? x.dtype() : DType::kBool, x.dims());
    visit_real(mask.storage(), [&]<typename T>(Tag<T>) { std::fill_n(mask.mutable_data<T>(), mask.size(), T{1}); });
  }
  ctx.set(0, x);
  return {};
}

}  // namespace

KernelRows dropout_kernels() {
  static const KernelRow kRows[] = {{"Dropout", 1, dropout}};
  return kRows;
}

}  // namespace onnxfold
