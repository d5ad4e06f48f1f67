#include "passes/tie/group_fits.h"

namespace onnxfold {

Result<std::vector<SharedFit>> fit_groups(const std::vector<TieGroup>& groups, const InputStatistics& statistics,
                                          const TieOptions& options, const std::vector<std::int64_t>& ranks) {
  return for_groups<SharedFit>(0, groups.size(),
                               [&](std::size_t i) { return fit_group(groups[i], statistics, options, ranks[i]); });
}

Result<double> damage_of(const Model& model, const std::vector<TieGroup>& groups, const std::vector<SharedFit>& fits,
                         const DamageMeter& meter) {
  const std::unique_ptr<Model> tried = model.clone();
  for (std::size_t i = 0; i < groups.size(); ++i) OF_TRY(apply_fit(tried->graph(), groups[i], fits[i]));
  OF_ASSIGN(const Damage damage, meter.measure(*tried));
  return damage.value;
}

}  // namespace onnxfold
