#include "passes/folded_norms.h"

#include <algorithm>

namespace onnxfold {

std::span<const PassInfo> reparam_passes();  // passes/reparam/table.cc

Result<bool> fold_norms(Model& model, PassContext& context, const std::map<std::string, std::string>& how) {
  const auto passes = reparam_passes();
  const auto info =
      std::find_if(passes.begin(), passes.end(), [](const PassInfo& pass) { return pass.name == "fold-norm-affine"; });
  if (info == passes.end()) return fail(Code::kInternal, "fold-norm-affine is not there");
  OF_ASSIGN(const PassOptions options, PassOptions::parse(info->name, info->options, how));
  PassContext inner(model, std::string(info->name));
  OF_ASSIGN(const bool folded, info->make(options)->run(model.graph(), inner));
  for (const Remark& remark : inner.remarks()) {
    if (remark.kind == Remark::Kind::kSkipped) context.skipped(remark.node, remark.reason);
  }
  return folded;
}

}  // namespace onnxfold
