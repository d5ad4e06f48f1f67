#include "passes/registry.h"

namespace onnxfold {

// Every factory lives in the file named after its pass.
std::unique_ptr<Pass> make_remove_dead_nodes(const PassOptions&);

namespace {

using enum Exactness;
using enum OptionType;

constexpr PassInfo kPasses[] = {
    // ---- cleanup ----
    {"remove-dead-nodes",
     "cleanup",
     kExact,
     "Removes nodes, initializers and functions that no output depends on",
     {},
     make_remove_dead_nodes},
    // ---- quantize ----
};

}  // namespace

std::span<const PassInfo> all_passes() { return kPasses; }

const PassInfo* find_pass(std::string_view name) {
  for (const PassInfo& info : kPasses) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::string nearest_pass(std::string_view name) {
  std::size_t nearest = name.size() / 3 + 2;
  std::string best;
  for (const PassInfo& info : kPasses) {
    const std::size_t distance = edit_distance(info.name, name);
    if (distance < nearest) {
      nearest = distance;
      best = info.name;
    }
  }
  return best;
}

}  // namespace onnxfold
