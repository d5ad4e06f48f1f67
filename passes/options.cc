#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>

#include "passes/pass.h"

namespace onnxfold {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

tl::unexpected<Error> bad_value(std::string_view pass, const OptionSpec& spec, std::string_view value,
                                std::string_view allowed) {
  return fail(Code::kInvalidArgument,
              fmt::format("pass '{}': option '{}' is '{}', expected {}", pass, spec.name, value, allowed));
}

// "min..max", either side possibly empty.
template <typename T>
bool in_range(T value, std::string_view range) {
  const std::size_t dots = range.find("..");
  if (dots == std::string_view::npos) return true;
  const auto low = parse_number<T>(range.substr(0, dots));
  const auto high = parse_number<T>(range.substr(dots + 2));
  return (!low || value >= *low) && (!high || value <= *high);
}

template <typename T>
Status check_number(std::string_view pass, const OptionSpec& spec, std::string_view value, std::string_view kind) {
  const std::optional<T> number = parse_number<T>(value);
  if (number && *number == *number && in_range(*number, spec.choices)) return {};
  const std::string range = spec.choices.empty() ? "" : fmt::format(" in {}", spec.choices);
  return bad_value(pass, spec, value, fmt::format("{}{}", kind, range));
}

Status check_value(std::string_view pass, const OptionSpec& spec, std::string& value) {
  switch (spec.type) {
    case OptionType::kBool:
      if (value == "1" || value == "yes" || value == "on" || value.empty()) value = "true";
      if (value == "0" || value == "no" || value == "off") value = "false";
      if (value == "true" || value == "false") return {};
      return bad_value(pass, spec, value, "true or false");
    case OptionType::kInt:
      return check_number<std::int64_t>(pass, spec, value, "an integer");
    case OptionType::kFloat:
      return check_number<double>(pass, spec, value, "a number");
    case OptionType::kChoice:
      for (const std::string_view choice : split(spec.choices, '|')) {
        if (choice == value) return {};
      }
      return bad_value(pass, spec, value, fmt::format("one of {}", spec.choices));
    case OptionType::kString:
    case OptionType::kPatterns:
      return {};
  }
  return {};
}

// Matches one bracket expression at the head of `pattern` and moves behind it; false when it is not closed.
bool match_set(std::string_view& pattern, char character, bool& matched) {
  const std::size_t close = pattern.find(']', 2);
  if (close == std::string_view::npos) return false;
  std::string_view set = pattern.substr(1, close - 1);
  pattern.remove_prefix(close + 1);
  const bool negated = set.size() > 1 && (set[0] == '!' || set[0] == '^');
  if (negated) set.remove_prefix(1);
  matched = false;
  for (std::size_t i = 0; i < set.size(); ++i) {
    if (i + 2 < set.size() && set[i + 1] == '-') {
      matched = matched || (set[i] <= character && character <= set[i + 2]);
      i += 2;
    } else {
      matched = matched || set[i] == character;
    }
  }
  matched = matched != negated;
  return true;
}

// Does the head of `pattern` (not a star) match `character`? Moves behind it when so.
bool match_one(std::string_view& pattern, char character) {
  if (pattern.empty() || pattern[0] == '*') return false;
  if (pattern[0] == '[') {
    std::string_view rest = pattern;
    bool matched = false;
    if (match_set(rest, character, matched)) {
      if (matched) pattern = rest;
      return matched;
    }
  }
  if (pattern[0] != '?' && pattern[0] != character) return false;
  pattern.remove_prefix(1);
  return true;
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substitute = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substitute, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

Result<PassOptions> PassOptions::parse(std::string_view pass, std::span<const OptionSpec> specs,
                                       const std::map<std::string, std::string>& given) {
  PassOptions options;
  for (const OptionSpec& spec : specs) options.values_.emplace(spec.name, spec.fallback);
  for (const auto& [name, text] : given) {
    const auto spec =
        std::find_if(specs.begin(), specs.end(), [&wanted = name](const OptionSpec& s) { return s.name == wanted; });
    if (spec == specs.end()) {
      std::string hint = specs.empty() ? "; it has none" : "; it has";
      std::size_t nearest = 3;
      std::string_view best;
      for (const OptionSpec& candidate : specs) {
        hint += fmt::format("{}{}", &candidate == &specs.front() ? " " : ", ", candidate.name);
        const std::size_t distance = edit_distance(candidate.name, name);
        if (distance < nearest) {
          nearest = distance;
          best = candidate.name;
        }
      }
      if (!best.empty()) hint = fmt::format("; did you mean '{}'?", best);
      return fail(Code::kInvalidArgument, fmt::format("pass '{}' has no option '{}'{}", pass, name, hint));
    }
    std::string value = text;
    OF_TRY(check_value(pass, *spec, value));
    options.values_.find(name)->second = std::move(value);
  }
  return options;
}

bool PassOptions::flag(std::string_view name) const { return text(name) == "true"; }

std::int64_t PassOptions::integer(std::string_view name) const {
  return parse_number<std::int64_t>(text(name)).value_or(0);
}

double PassOptions::number(std::string_view name) const { return parse_number<double>(text(name)).value_or(0); }

const std::string& PassOptions::text(std::string_view name) const {
  static const std::string kNone;
  const auto found = values_.find(name);
  return found == values_.end() ? kNone : found->second;
}

std::vector<std::string> PassOptions::patterns(std::string_view name) const {
  std::vector<std::string> result;
  for (const std::string_view part : split(text(name), ';')) {
    if (!part.empty()) result.emplace_back(part);
  }
  return result;
}

bool glob_match(std::string_view pattern, std::string_view name) {
  std::string_view after_star, retry;
  bool starred = false;
  while (!name.empty()) {
    if (!pattern.empty() && pattern[0] == '*') {
      pattern.remove_prefix(1);
      after_star = pattern;
      retry = name;
      starred = true;
    } else if (match_one(pattern, name[0])) {
      name.remove_prefix(1);
    } else if (starred) {
      retry.remove_prefix(1);
      pattern = after_star;
      name = retry;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*') == std::string_view::npos;
}

}  // namespace onnxfold
