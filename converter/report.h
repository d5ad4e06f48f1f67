// What a run did, as data, and the forms it is shown in.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "converter/equal_bytes.h"
#include "converter/pipeline.h"
#include "converter/proof.h"

namespace onnxfold {

struct SkipReason {
  std::string reason;
  std::int64_t count = 0, bytes = 0;
};

// How much of what a pass looks at it changed; a sum over remarks. Bytes are weight bytes before.
struct Coverage {
  std::string pass, op_type;
  std::int64_t applied = 0, total = 0;
  std::int64_t applied_bytes = 0, total_bytes = 0;
  std::vector<SkipReason> skipped;  // largest first
};

struct ModelFacts {
  std::string path;
  std::int64_t bytes = 0;  // of the file and its external data
  std::int64_t external_bytes = 0, dead_bytes = 0;
  std::int64_t nodes = 0, weight_bytes = 0;
  std::int64_t parameters = 0;       // see count_parameters
  std::optional<std::int64_t> macs;  // of one sample of the data checked on; none: not known
  std::string xxh128;                // of the files' bytes; empty when there is no file
};

// One model beside the ensemble of the parents.
struct MergeRow {
  std::string model;
  double kl = 0;               // to the ensemble, nats
  double rel_l2 = 0;           // to the mean of the parents' outputs
  std::optional<double> task;  // accuracy or loss
};
struct MergeLayerRow {
  std::string name, kind;
  double before = 0, after = 0, cost = 0;  // similarity of neurons before and after alignment; transport cost
  double sharpness = 1;                    // of the transport: 1 where one neuron goes to each
};
struct MergeFacts {
  std::vector<ModelFacts> parents;  // all of them; the last is the anchor
  std::string method;
  std::string task;            // what MergeRow::task counts; empty: none
  std::string scored_on;       // where the data came from
  std::vector<MergeRow> rows;  // parents, ensemble, controls, merged; empty when nothing was scored
  std::vector<MergeLayerRow> layers;
  std::vector<std::string> notes;
  std::string verdict;  // how the merged model stands beside its parents and controls
  bool worse = false;   // than a control or the better parent
};

// One model that a search for a budget looked at.
struct BudgetAttempt {
  std::string candidate;   // "4 bits, blocks of 32, symmetric" or "mixed: ..."
  std::int64_t bytes = 0;  // of the file
  double bits = 0;         // a weight, scales and zero points included
  std::string metric;      // "KL 0.0123" or the gate that decided
  std::optional<double> value;
  std::string verdict;  // "passed", "FAILED: ...", "chosen"
};
struct BudgetFacts {
  std::string goal;       // "at most 5.1 MB", "4.25 bits a weight", "the smallest that passes its gates"
  std::string judged_on;  // where the numbers of the attempts come from
  std::vector<BudgetAttempt> attempts;
  std::vector<std::string> notes;
};

struct Report {
  std::string verb;  // "compress", "merge" or "verify"
  ModelFacts source, target;
  bool written = false;             // target is on disk
  bool predicted = false;           // --dry-run: target.bytes and peak_memory_bytes are estimates
  std::string failed_path;          // where --keep-failed put the result
  std::string recipe_name, recipe;  // recipe as YAML
  std::uint64_t seed = 0;
  PipelineResult pipeline;
  std::vector<Coverage> coverage;
  std::optional<Proof> proof;
  std::string not_checked;                // why there is no proof; empty when there is one
  std::string culprit;                    // what --bisect found
  std::optional<EqualBytes> equal_bytes;  // beside lossy results
  std::optional<MergeFacts> merge;
  std::optional<BudgetFacts> budget;
  double seconds = 0;
  std::int64_t peak_memory_bytes = 0;
  bool passed() const { return !proof || proof->passed; }
};

// Lossy passes only, in the order of the recipe, then of operator names.
std::vector<Coverage> coverage_of(const PipelineResult& result);

// "68.9 MB" (powers of 1000, as file managers show them).
std::string bytes_text(std::int64_t bytes);

// For a person at a terminal.
std::string report_text(const Report& report, bool verbose = false);
// For scripts: "version" grows when a key changes its meaning or goes; new keys may come without.
std::string report_json(const Report& report);
// For CI: each gate a test case.
std::string report_junit(const Report& report);
// For a pull request, and a page of its own without outside resources.
std::string report_markdown(const Report& report);
std::string report_html(const Report& report);
// By extension: .json, .xml, .md, .html. Errors: invalid_argument for another.
Result<std::string> render_report(const Report& report, const std::string& path);

}  // namespace onnxfold
