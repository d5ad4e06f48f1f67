// The main job: load, run a recipe, prove, gate, and save or leave no trace.
#pragma once

#include <functional>
#include <string>

#include "converter/budget.h"
#include "converter/report.h"
#include "formats/onnx/onnx_file.h"

namespace onnxfold {

struct CompressOptions {
  std::string source, target;
  Recipe recipe;
  std::string data;         // .npz or folder of .pb; empty: generated inputs
  std::string calibration;  // likewise, for passes that learn from data; empty: none
  Gates gates;
  BudgetGoal budget;  // when any is set, the formats of the weights are searched and the recipe is completed
  std::uint64_t seed = 0;
  std::int64_t max_samples = 0;          // of the data; 0: all
  std::int64_t calibration_samples = 0;  // of the calibration data; 0: all
  bool check = true;
  bool dry_run = false;      // run the passes, predict, write nothing, check nothing
  bool keep_failed = false;  // write a result that failed its gates as <target>.failed.onnx
  enum class Controls { kAuto, kYes, kNo };
  Controls controls = Controls::kAuto;  // beside a lossy result: other methods at equal bytes; kAuto: if not too slow
  bool bisect = false;                  // after a failed check, name the first pass that breaks it
  SaveOptions save;
  std::function<void(const std::string& phase, double done)> progress;  // done: 0..1, negative when unknown
  std::function<Status(const std::string& pass, const Model& model)> after_changed;
};

// Errors: those of loading, passes and saving; kResource when memory runs out. A failed gate is no error: the report
// says so, and nothing is written (unless keep_failed). After any error the target is as it was.
Result<Report> compress(const CompressOptions& options);

// Compares two files: the same check and report, without passes. Gates: those given, else the default for lossy work.
struct VerifyOptions {
  std::string before, after, data;
  Gates gates;
  std::uint64_t seed = 0;
  std::int64_t max_samples = 0;
};
Result<Report> verify_files(const VerifyOptions& options);

// Hash (XXH3, 128 bits, 32 hex digits) of files one after the other. Errors: io.
Result<std::string> hash_files(const std::vector<std::string>& paths);
// Largest resident size of this process so far.
std::int64_t peak_memory_bytes();
// Estimate of what writing a model adds to the resident size: making_bytes() of the tensors that are made at one time,
// within the budget of the options.
std::int64_t predicted_writing_bytes(Model& model, const SaveOptions& options);
// Bytes of all constant tensors (initializers and Constant nodes, subgraphs included) and the number of nodes.
std::int64_t weight_bytes(Model& model);
std::int64_t node_count(Model& model);

}  // namespace onnxfold
