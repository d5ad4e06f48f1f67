// The merged model, made by the method that was chosen or that trials choose.
#pragma once

#include <memory>
#include <vector>

#include "converter/merge_sources.h"

namespace onnxfold {

struct Merged {
  std::unique_ptr<Model> model;
  std::vector<std::unique_ptr<Model>> aligned;  // the other parents in the anchor's basis, where the method makes them
};

// With choice.automatic the method is chosen first, by trial (merge_trials.h), and taken into `choice`. Notes and rows
// of layers go into `facts`. Errors: those of the methods, with the method's name.
Result<Merged> make_merged(const MergeOptions& options, const MergeSources& sources, MergeChoice& choice,
                           MergeFacts& facts);

}  // namespace onnxfold
