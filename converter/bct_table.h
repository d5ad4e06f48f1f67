// How small and how exact pass `bct` makes a model at each block size: the table a user chooses from.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"

namespace onnxfold {

struct BctRow {
  std::int64_t block = 0;
  double bits = 0;          // of a constant number, exponents included
  double ratio = 0;         // 32 / bits
  double weight_error = 0;  // ||w - w'|| / ||w|| over all constants in blocks
  std::int64_t file_bytes = 0;
  double output_error = 0;  // ||y - y'|| / ||y||, constants alone in blocks
  std::optional<double> task;
  std::optional<double> whole_error, whole_task;  // intermediate results in blocks as well; without data to see: none
  std::int64_t whole_bytes = 0;
};

struct BctTable {
  int bits = 4;                 // of weights, tables and parameters
  std::int64_t numbers = 0;     // constants in blocks
  std::int64_t file_bytes = 0;  // of the model before
  std::string task_kind;        // "accuracy", "bits per byte", "perplexity" or empty
  double task = 0;              // of the model before
  std::string data_origin;
  std::vector<BctRow> rows;
};

struct BctTableOptions {
  std::string path;
  std::string data, calibration;  // .npz; empty: generated inputs; no intermediate results
  int bits = 4;
  std::int64_t max_samples = 0;
  std::uint64_t seed = 0;
  std::function<void(double done)> progress;
};

// Runs the clean-up of recipe bct once, then the pass for blocks of 32 to 4096. Errors: those of loading, of the
// passes, of the executor.
Result<BctTable> measure_bct(const BctTableOptions& options);
std::string bct_table_text(const BctTable& table);

}  // namespace onnxfold
