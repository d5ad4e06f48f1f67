// Formats that differ from weight to weight (mixed precision), as the option `formats` spells them.
//
//   GLOB=BITS[/BLOCK][/sym|/asym]   GLOB=float
//
// The glob is matched with the name of the weight and of the node that reads it; the first rule that matches counts.
// What a rule does not say stays as the pass's own options have it; `float` leaves the weight alone.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ir/result.h"
#include "passes/quantize/blockwise.h"

namespace onnxfold {

struct FormatRule {
  std::string pattern;
  bool keep = false;  // in floating point
  int bits = 4;
  std::optional<std::int64_t> block;  // 0: a whole row
  std::optional<bool> symmetric;

  BlockFormat apply(BlockFormat format) const;
};

// Errors: invalid_argument quoting the rule.
Result<std::vector<FormatRule>> parse_format_rules(const std::vector<std::string>& texts);
// The rule that gives exactly this format to the weight of this name; characters that globs, lists and option texts
// give a meaning to stand as '?'.
std::string format_rule_text(const std::string& weight, const BlockFormat& format);
std::string keep_rule_text(const std::string& weight);

}  // namespace onnxfold
