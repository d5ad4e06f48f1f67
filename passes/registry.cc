#include "passes/registry.h"

namespace onnxfold {

// One table a family: passes/<family>/table.cc.
std::span<const PassInfo> cleanup_passes();
std::span<const PassInfo> depth_passes();
std::span<const PassInfo> merge_passes();
std::span<const PassInfo> quantize_passes();
std::span<const PassInfo> reparam_passes();
std::span<const PassInfo> tie_passes();
std::span<const PassInfo> width_passes();

namespace {

std::vector<PassInfo> joined_tables() {
  std::vector<PassInfo> rows;
  for (const auto& table : {cleanup_passes(), reparam_passes(), merge_passes(), quantize_passes(), depth_passes(),
                            width_passes(), tie_passes()}) {
    rows.insert(rows.end(), table.begin(), table.end());
  }
  return rows;
}

}  // namespace

std::span<const PassInfo> all_passes() {
  static const std::vector<PassInfo> rows = joined_tables();
  return rows;
}

const PassInfo* find_pass(std::string_view name) {
  for (const PassInfo& info : all_passes()) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::string nearest_pass(std::string_view name) {
  std::size_t nearest = name.size() / 3 + 2;
  std::string best;
  for (const PassInfo& info : all_passes()) {
    const std::size_t distance = edit_distance(info.name, name);
    if (distance < nearest) {
      nearest = distance;
      best = info.name;
    }
  }
  return best;
}

}  // namespace onnxfold
