#include "passes/tie/block_names.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace onnxfold {
namespace {

bool digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

// Pieces that are numbers, and those that are not.
std::vector<std::string> pieces_of(const std::string& name) {
  std::vector<std::string> pieces;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (i == 0 || digit(name[i]) != digit(name[i - 1])) pieces.emplace_back();
    pieces.back() += name[i];
  }
  return pieces;
}

bool counts_up(const std::vector<std::vector<std::string>>& names, std::size_t piece) {
  for (std::size_t t = 0; t < names.size(); ++t) {
    const std::string& text = names[t][piece];
    if (!digit(text[0]) || text.size() > 9) return false;
    if (t > 0 && std::atol(text.c_str()) != std::atol(names[t - 1][piece].c_str()) + 1) return false;
  }
  return true;
}

bool boundary(const std::string& name, std::size_t at) {
  return at >= name.size() || name[at] == '.' || name[at] == '/' || name[at] == '_';
}

}  // namespace

std::string common_name(const std::vector<std::string>& names) {
  std::vector<std::vector<std::string>> split;
  for (const std::string& name : names) {
    split.push_back(pieces_of(name));
    if (split.back().size() != split.front().size()) return names.front();
  }
  std::string common;
  for (std::size_t p = 0; p < split.front().size(); ++p) {
    const bool equal =
        std::all_of(split.begin(), split.end(), [&](const auto& pieces) { return pieces[p] == split.front()[p]; });
    if (!equal && !counts_up(split, p)) return names.front();
    common += equal ? split.front()[p] : "i";
  }
  return common;
}

std::string name_of_turn(const std::string& name, std::int64_t turn) {
  if (name.empty()) return name;
  std::string made;
  bool found = false;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const bool alone = name[i] == 'i' && (i == 0 || boundary(name, i - 1)) && boundary(name, i + 1);
    made += alone ? std::to_string(turn) : std::string(1, name[i]);
    found = found || alone;
  }
  return found ? made : name + "_" + std::to_string(turn);
}

}  // namespace onnxfold
