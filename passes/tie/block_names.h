// Names of what stands for the same thing in several blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace onnxfold {

// "layers.i.fc" of "layers.0.fc", "layers.1.fc", ...: a number that grows by one from name to name becomes "i". The
// first name when they differ in another way.
std::string common_name(const std::vector<std::string>& names);

// The reverse for one turn: every "i" that stands alone between '.', '/', '_' or the ends becomes the number of the
// turn; a name without one gets "_<turn>".
std::string name_of_turn(const std::string& name, std::int64_t turn);

}  // namespace onnxfold
