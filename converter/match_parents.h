// The models of a merge made to correspond: whatever their names and exporters, they end in one graph.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ir/model.h"
#include "ir/result.h"

namespace onnxfold {

struct NamedModel {
  std::unique_ptr<Model>* model;  // may be replaced by the same function in the anchor's spelling
  std::string path;
};

struct MatchData {
  std::string path;  // of data that the models can run on; empty: inputs are made up from the seed
  std::uint64_t seed = 0;
};

// The last of `models` is the anchor. Inputs and outputs of the others get its names. Models that other exporters wrote
// are written with the anchor's graph and run beside themselves on data; where that needs it, all are cleaned
// up first (and the anchor then has another graph than its file). `notes` says what was done. Errors:
// invalid_argument, naming the models, the place where they differ, and how.
Status match_parents(const std::vector<NamedModel>& models, const MatchData& data, std::vector<std::string>& notes);

}  // namespace onnxfold
