#include "cli/options.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <iostream>
#include <limits>
#include <sstream>

#include "exec/executor.h"
#include "passes/pass.h"

namespace onnxfold::cli {
namespace {

namespace po = boost::program_options;

constexpr int kStyle = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;

template <typename T>
std::optional<T> parse_whole(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

tl::unexpected<Error> bad_value(const std::string& option, const std::string& value, const std::string& expected) {
  return fail(Code::kInvalidArgument, fmt::format("--{}: '{}' is not {}", option, value, expected));
}

}  // namespace

std::string suggestion(const std::string& word, const Words& names) {
  std::size_t least = word.size() / 3 + 2;
  std::string best;
  for (const std::string& name : names) {
    const std::size_t distance = edit_distance(name, word);
    if (distance >= least) continue;
    least = distance;
    best = name;
  }
  return best.empty() ? "" : fmt::format("; did you mean '{}'?", best);
}

Arguments::Arguments(std::string usage, std::string summary, std::string example)
    : usage_(std::move(usage)), summary_(std::move(summary)), example_(std::move(example)), options_("Options", 100) {}

void Arguments::value(const std::string& names, const std::string& placeholder, const std::string& help) {
  options_.add_options()(names.c_str(), po::value<std::string>()->value_name(placeholder), help.c_str());
}

void Arguments::list(const std::string& names, const std::string& placeholder, const std::string& help) {
  options_.add_options()(names.c_str(), po::value<Words>()->value_name(placeholder)->composing(), help.c_str());
}

void Arguments::flag(const std::string& names, const std::string& help) {
  options_.add_options()(names.c_str(), help.c_str());
}

void Arguments::positional(int least, int most, std::string what) {
  least_ = least;
  most_ = most;
  positional_what_ = std::move(what);
}

Error Arguments::unknown_option(const std::string& name) const {
  Words names;
  for (const auto& option : options_.options()) names.push_back("--" + option->long_name());
  return {Code::kInvalidArgument, fmt::format("unknown option '{}'{}", name, suggestion(name, names))};
}

// The one place where exceptions of Boost.Program_options end.
Result<bool> Arguments::parse(const Words& words) {
  po::options_description all;
  all.add(options_).add_options()("words", po::value<Words>());
  po::positional_options_description positions;
  positions.add("words", -1);
  try {
    po::store(po::command_line_parser(words).options(all).positional(positions).style(kStyle).run(), values_);
    po::notify(values_);
  } catch (const po::unknown_option& e) {
    return fail(unknown_option(e.get_option_name()));
  } catch (const po::error& e) {
    return fail(Code::kInvalidArgument, e.what());
  }
  if (has("help")) {
    std::cout << "Usage: onnxfold " << usage_ << "\n\n"
              << summary_ << "\n\n"
              << options_ << "\nExample:\n  onnxfold " << example_ << "\n";
    return false;
  }
  words_ = texts("words");
  const int count = static_cast<int>(words_.size());
  if (count < least_)
    return fail(Code::kInvalidArgument, fmt::format("missing {}; usage: onnxfold {}", positional_what_, usage_));
  if (count > most_) {
    return fail(Code::kInvalidArgument,
                fmt::format("unexpected '{}'; usage: onnxfold {}", words_[static_cast<std::size_t>(most_)], usage_));
  }
  return true;
}

std::string Arguments::text(const std::string& name, const std::string& fallback) const {
  return has(name) ? values_[name].as<std::string>() : fallback;
}

Words Arguments::texts(const std::string& name) const { return has(name) ? values_[name].as<Words>() : Words(); }

Result<std::int64_t> Arguments::integer(const std::string& name, std::int64_t fallback, std::int64_t least) const {
  if (!has(name)) return fallback;
  const auto parsed = parse_whole<std::int64_t>(text(name));
  if (!parsed || *parsed < least) return bad_value(name, text(name), fmt::format("an integer of at least {}", least));
  return *parsed;
}

Result<std::optional<double>> Arguments::number(const std::string& name) const {
  if (!has(name)) return std::optional<double>();
  const auto parsed = parse_whole<double>(text(name));
  if (!parsed || !std::isfinite(*parsed)) return bad_value(name, text(name), "a number");
  return std::optional<double>(*parsed);
}

Result<std::int64_t> Arguments::size(const std::string& name, std::int64_t fallback) const {
  if (!has(name)) return fallback;
  std::string digits = text(name);
  int shift = 0;
  const std::size_t letters = digits.find_first_not_of("0123456789.");
  if (letters != std::string::npos) {
    const std::string unit = digits.substr(letters);
    digits.resize(letters);
    const char letter = static_cast<char>(std::toupper(static_cast<unsigned char>(unit[0])));
    const std::string rest = unit.substr(1);
    const std::size_t index = std::string("KMGT").find(letter);
    if (index == std::string::npos || !(rest.empty() || rest == "B" || rest == "iB" || rest == "b")) {
      return bad_value(name, text(name), "a size like 512M or 2G");
    }
    shift = 10 * (static_cast<int>(index) + 1);
  }
  const auto value = parse_whole<double>(digits);
  const double bytes = value ? std::ldexp(*value, shift) : 0;
  if (!(bytes >= 1) || bytes > 9e18) return bad_value(name, text(name), "a size like 512M or 2G");
  return static_cast<std::int64_t>(bytes);
}

void add_common(Arguments& arguments) {
  arguments.flag("help,h", "show this and stop");
  arguments.flag("quiet,q", "print nothing but errors");
  arguments.flag("verbose,v", "print every pass and remark");
  arguments.value("threads", "N", "threads to use (default: all); results do not depend on it");
  arguments.value("seed", "N", "seed of everything random (default 0)");
}

Result<Common> common_of(const Arguments& arguments) {
  Common common;
  common.quiet = arguments.has("quiet");
  common.verbose = arguments.has("verbose");
  if (common.quiet && common.verbose) return fail(Code::kInvalidArgument, "--quiet and --verbose exclude each other");
  OF_ASSIGN(const std::int64_t count, arguments.integer("threads", threads(), 1));
  set_threads(static_cast<int>(std::min<std::int64_t>(count, 1024)));
  OF_ASSIGN(const std::int64_t seed, arguments.integer("seed", 0, 0));
  common.seed = static_cast<std::uint64_t>(seed);
  return common;
}

void add_gates(Arguments& arguments) {
  arguments.value("max-abs", "X", "gate: largest absolute error of any output");
  arguments.value("max-rel-l2", "X", "gate: largest relative error (L2) of any output");
  arguments.value("min-cosine", "X", "gate: least cosine of any sample's output");
  arguments.value("min-sqnr", "DB", "gate: least signal to quantization noise, in dB");
  arguments.value("max-kl", "X", "gate: largest mean KL divergence of logits, in nats");
  arguments.value("min-top1", "X", "gate: least share of rows whose arg max agrees (0 to 1)");
  arguments.value("max-accuracy-drop", "POINTS", "gate: most percentage points of accuracy lost (labels in the data)");
  arguments.value("max-perplexity-increase", "PERCENT", "gate: largest increase of perplexity");
}

Result<Gates> gates_of(const Arguments& arguments) {
  Gates gates;
  OF_ASSIGN(gates.max_abs, arguments.number("max-abs"));
  OF_ASSIGN(gates.max_rel_l2, arguments.number("max-rel-l2"));
  OF_ASSIGN(gates.min_cosine, arguments.number("min-cosine"));
  OF_ASSIGN(gates.min_sqnr, arguments.number("min-sqnr"));
  OF_ASSIGN(gates.max_kl, arguments.number("max-kl"));
  OF_ASSIGN(gates.min_top1, arguments.number("min-top1"));
  OF_ASSIGN(gates.max_accuracy_drop, arguments.number("max-accuracy-drop"));
  if (gates.max_accuracy_drop) *gates.max_accuracy_drop /= 100;
  OF_ASSIGN(gates.max_perplexity_increase, arguments.number("max-perplexity-increase"));
  return gates;
}

void add_saving(Arguments& arguments) {
  arguments.flag("external", "put the weights into one file beside the model");
  arguments.flag("inline", "keep the weights inside the model file");
  arguments.flag("force,f", "overwrite the target");
  arguments.value("memory", "SIZE",
                  "most memory for weights being made at one time, an error where one needs more (without it: 768M, "
                  "and more for one that needs more)");
}

Result<SaveOptions> saving_of(const Arguments& arguments) {
  SaveOptions save;
  if (arguments.has("external") && arguments.has("inline")) {
    return fail(Code::kInvalidArgument, "--external and --inline exclude each other");
  }
  if (arguments.has("external")) save.placement = DataPlacement::kExternal;
  if (arguments.has("inline")) save.placement = DataPlacement::kInline;
  save.overwrite = arguments.has("force");
  save.threads = threads();
  OF_ASSIGN(save.memory_budget, arguments.size("memory", save.memory_budget));
  save.memory_limited = arguments.has("memory");
  return save;
}

}  // namespace onnxfold::cli
