// Options of the verbs, with GNU habits: --help with an example, and the nearest name for a misspelt one.
#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "converter/gates.h"
#include "formats/onnx/onnx_file.h"
#include "ir/result.h"

namespace onnxfold::cli {

using Words = std::vector<std::string>;

class Arguments {
 public:
  // `usage` and `example` follow the program's name: "compress IN.onnx -o OUT.onnx [options]".
  Arguments(std::string usage, std::string summary, std::string example);

  // Value options and switches. `names` is "long" or "long,s".
  void value(const std::string& names, const std::string& placeholder, const std::string& help);
  void list(const std::string& names, const std::string& placeholder, const std::string& help);
  void flag(const std::string& names, const std::string& help);
  // Positional words: at least `least`, at most `most`; `what` for the message when they are missing.
  void positional(int least, int most, std::string what);

  // False: help was asked for and printed, the verb is done. Errors: invalid_argument.
  Result<bool> parse(const Words& words);

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  std::string text(const std::string& name, const std::string& fallback = {}) const;
  Words texts(const std::string& name) const;
  const Words& words() const { return words_; }
  // Errors: invalid_argument naming option and value.
  Result<std::int64_t> integer(const std::string& name, std::int64_t fallback, std::int64_t least) const;
  Result<std::optional<double>> number(const std::string& name) const;
  // "512M", "2G", "300000": bytes, powers of 1024.
  Result<std::int64_t> size(const std::string& name, std::int64_t fallback) const;

 private:
  Error unknown_option(const std::string& name) const;

  std::string usage_, summary_, example_, positional_what_;
  int least_ = 0, most_ = 0;
  boost::program_options::options_description options_;
  boost::program_options::variables_map values_;
  Words words_;
};

// What every verb has: --help, -q, -v, --threads, --seed.
struct Common {
  bool quiet = false, verbose = false;
  std::uint64_t seed = 0;
};
void add_common(Arguments& arguments);
// Also sets the number of threads.
Result<Common> common_of(const Arguments& arguments);

void add_gates(Arguments& arguments);
Result<Gates> gates_of(const Arguments& arguments);

// --external, --inline, --force, --memory.
void add_saving(Arguments& arguments);
Result<SaveOptions> saving_of(const Arguments& arguments);

// The nearest of `names` to `word`, in quotes with "did you mean", or empty.
std::string suggestion(const std::string& word, const Words& names);

}  // namespace onnxfold::cli
