#include "passes/quantize/format_rules.h"

#include <fmt/format.h>

#include <algorithm>

namespace onnxfold {
namespace {

tl::unexpected<Error> bad_rule(const std::string& text) {
  return fail(
      Code::kInvalidArgument,
      fmt::format("formats: '{}' is not GLOB=BITS[/BLOCK][/sym|/asym] or GLOB=float, with 2, 3, 4 or 8 bits and "
                  "blocks of 16 to 256 or channel",
                  text));
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

bool set_bits(const std::string& word, FormatRule& rule) {
  for (const int bits : {2, 3, 4, 8}) {
    if (word != std::to_string(bits)) continue;
    rule.bits = bits;
    return true;
  }
  return false;
}

bool set_detail(const std::string& word, FormatRule& rule) {
  if (word == "sym" || word == "asym") {
    rule.symmetric = word == "sym";
    return true;
  }
  if (word == "channel") {
    rule.block = 0;
    return true;
  }
  for (const std::int64_t block : {16, 32, 64, 128, 256}) {
    if (word != std::to_string(block)) continue;
    rule.block = block;
    return true;
  }
  return false;
}

std::string as_pattern(const std::string& name) {
  std::string pattern;
  for (const char c : name) pattern += std::string_view("*?[];,=").find(c) == std::string_view::npos ? c : '?';
  return pattern;
}

}  // namespace

BlockFormat FormatRule::apply(BlockFormat format) const {
  format.bits = bits;
  if (block) format.block = *block;
  if (symmetric) format.symmetric = *symmetric;
  if (bits == 8 || format.symmetric) format.float_zeros = false;
  return format;
}

Result<std::vector<FormatRule>> parse_format_rules(const std::vector<std::string>& texts) {
  std::vector<FormatRule> rules;
  for (const std::string& text : texts) {
    const std::size_t at = text.rfind('=');
    if (at == std::string::npos || at == 0) return bad_rule(text);
    FormatRule rule;
    rule.pattern = text.substr(0, at);
    const std::vector<std::string> words = split(text.substr(at + 1), '/');
    rule.keep = words.size() == 1 && words.front() == "float";
    if (!rule.keep && !set_bits(words.front(), rule)) return bad_rule(text);
    const bool understood =
        std::all_of(words.begin() + 1, words.end(), [&](const std::string& word) { return set_detail(word, rule); });
    if (!understood) return bad_rule(text);
    rules.push_back(std::move(rule));
  }
  return rules;
}

std::string format_rule_text(const std::string& weight, const BlockFormat& format) {
  const std::string block = format.block == 0 ? "channel" : std::to_string(format.block);
  return fmt::format("{}={}/{}/{}", as_pattern(weight), format.bits, block, format.symmetric ? "sym" : "asym");
}

std::string keep_rule_text(const std::string& weight) { return as_pattern(weight) + "=float"; }

}  // namespace onnxfold
