#include "analysis/heal/outcome.h"

#include <algorithm>

#include "analysis/compare/damage.h"

namespace onnxfold {

Result<std::vector<double>> held_out_damage(const Model& original, const Dataset& data,
                                            const std::vector<const Model*>& models) {
  constexpr std::size_t kBatches = 16;
  Dataset some = data;
  some.targets.clear();
  some.batches.resize(std::min(some.batches.size(), kBatches));
  some.batch_sizes.resize(std::min(some.batch_sizes.size(), kBatches));
  OF_ASSIGN(const DamageMeter meter,
            DamageMeter::create(original, some, DamageMeter::Kind::kKl, nullptr, DamageMeter::Rows::kHeldOut));
  std::vector<double> found;
  for (const Model* model : models) {
    OF_ASSIGN(const Damage damage, meter.measure(*model));
    found.push_back(damage.value);
  }
  return found;
}

}  // namespace onnxfold
