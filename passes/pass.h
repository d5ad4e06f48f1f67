// The contract of a pass.
//
// A pass matches completely, computes the new tensors, and only then mutates: an error leaves the graph as it was.
// "Does not apply" is no error: the pass leaves a remark (node, reason) and says "unchanged". A fresh object per run,
// no globals, deterministic order. Values that a pass makes carry their types where it knows them, so that shapes need
// no inference between passes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/model.h"

namespace onnxfold {

struct Dataset;  // analysis/calibrate/dataset.h

// How far a pass may move the model's results.
enum class Exactness {
  kExact,     // same bits
  kRounding,  // same mathematics in another order: 1e-5 relative in float32, 1e-12 in float64
  kLossy,     // measured, reported and gated
};

// Largest relative error that the declaration allows in the given precision; the one place tolerances come from.
double tolerance(Exactness exactness, bool float64);

// What a pass says about one place of the graph. Coverage lines of the report are sums over remarks.
struct Remark {
  enum class Kind { kApplied, kSkipped, kNote } kind = Kind::kNote;
  std::string pass;
  std::string node;               // label of the node or name of the value
  std::string reason;             // why skipped, or what was done
  std::int64_t weight_bytes = 0;  // of the weight in question, before
  std::int64_t result_bytes = 0;  // after; 0 when not applicable
  std::string op_type;            // of the node, filled in by the pipeline
};

class PassContext {
 public:
  PassContext(Model& model, std::string pass) : model_(model), pass_(std::move(pass)) {}

  Model& model() { return model_; }
  void applied(std::string node, std::string what, std::int64_t bytes_before = 0, std::int64_t bytes_after = 0);
  void skipped(std::string node, std::string why, std::int64_t weight_bytes = 0);
  void note(std::string node, std::string text);
  const std::vector<Remark>& remarks() const { return remarks_; }
  std::vector<Remark> take_remarks() { return std::move(remarks_); }

  std::uint64_t seed = 0;
  // Data to calibrate on, with the model's inputs; null when the user gave none.
  const Dataset* calibration = nullptr;
  // The model as it was before the first lossy pass: what repairs aim at. Values that a pass replaced keep their names,
  // so they are found by name. Null when there was no such pass, or outside of a pipeline.
  const Model* reference = nullptr;
  // Share of the pass that is done, 0..1, for passes that take their time; may be empty.
  std::function<void(double done)> progress;

 private:
  Model& model_;
  std::string pass_;
  std::vector<Remark> remarks_;
};

class Pass {
 public:
  virtual ~Pass() = default;
  // Rewrites one graph (the pipeline calls it for the main graph and then for every subgraph). Value: did anything
  // change.
  virtual Result<bool> run(Graph& graph, PassContext& context) = 0;
};

enum class OptionType { kBool, kInt, kFloat, kString, kChoice, kPatterns };

struct OptionSpec {
  std::string_view name;
  OptionType type;
  std::string_view fallback;  // default, as text
  std::string_view help;
  std::string_view choices = "";  // kChoice: "a|b|c"; kInt and kFloat: "min..max" (either side may be empty)
};

// Options of one pass, checked against its specs. Missing ones have their defaults.
class PassOptions {
 public:
  // Errors: invalid_argument naming pass, option, what is allowed and (for a misspelt name) the nearest option.
  static Result<PassOptions> parse(std::string_view pass, std::span<const OptionSpec> specs,
                                   const std::map<std::string, std::string>& given);

  bool flag(std::string_view name) const;
  std::int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  const std::string& text(std::string_view name) const;            // string and choice
  std::vector<std::string> patterns(std::string_view name) const;  // split at ';' (empty: none)
  const std::map<std::string, std::string, std::less<>>& all() const { return values_; }

 private:
  std::map<std::string, std::string, std::less<>> values_;
};

// Least number of single-character edits that turn `a` into `b`, for "did you mean".
std::size_t edit_distance(std::string_view a, std::string_view b);

// Does a glob (* and ? and [..]) match the whole name?
bool glob_match(std::string_view pattern, std::string_view name);

using PassFactory = std::unique_ptr<Pass> (*)(const PassOptions&);

// One row of passes/<family>/table.cc: the only place a pass is named.
struct PassInfo {
  std::string_view name;    // kebab-case of the file name
  std::string_view family;  // cleanup, reparam, quantize, depth, width, merge, tie
  Exactness exactness;
  std::string_view summary;  // one line
  std::span<const OptionSpec> options;
  PassFactory make;
};

}  // namespace onnxfold
