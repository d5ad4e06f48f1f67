#include "passes/tie/loop_plan.h"

#include <fmt/format.h>

namespace onnxfold {

Looping looping_named(std::string_view name) {
  if (name == "sequence") return Looping::kSequence;
  return name == "cycle-rev" ? Looping::kCycleReversed : Looping::kCycle;
}

Result<std::vector<std::size_t>> looped_layers(Looping looping, std::size_t layers, std::size_t loops) {
  if (loops == 0 || layers % loops != 0) {
    return fail(Code::kInvalidArgument, fmt::format("{} layers cannot be {} loops over the same ones", layers, loops));
  }
  const std::size_t unique = layers / loops;
  std::vector<std::size_t> table;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::size_t place = layer % unique;
    if (looping == Looping::kSequence) {
      table.push_back(layer / loops);
    } else {
      table.push_back(looping == Looping::kCycle || layer < unique ? place : unique - 1 - place);
    }
  }
  return table;
}

std::vector<std::size_t> stepwise_layers(std::size_t layers, std::size_t unique) {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < unique; ++i) chosen.push_back(unique == 1 ? 0 : i * (layers - 1) / (unique - 1));
  return chosen;
}

}  // namespace onnxfold
