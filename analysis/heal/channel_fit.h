// Channel fit: moves values of a changed model toward the original's, channel by channel.
//
// For channel c of a value, y_t ~ scale_c y_s + shift_c in the least squares sense over the rows of the data (y_s of
// the changed model, y_t of the original), scales pulled toward 1 by a hundredth of its second moment. From the front
// of the model to its end: what a fit moves is seen by the values after it. With the scale fixed at 1 this is bias
// correction (Nagel et al. 2019, arXiv 1906.04721); with both, behind a norm, it is a refit of gain and bias.
// Rows count by 1 / (their energy in the original + the median of it): in transformers a few tokens have values a
// hundred times those of others, and their errors would decide what is added to all. Padding does not count.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"

namespace onnxfold {

struct ChannelSite {
  std::string value;  // of the main graph of both models
  int axis = -1;      // of the channels; negative: from the back
  bool scale = false;
  bool shift = true;
};

struct ChannelFit {
  std::vector<double> scale, shift;          // one a channel
  double error_before = 0, error_after = 0;  // relative L2 error on rows held out, weighted as above
  std::int64_t rows = 0;                     // fitted
  bool accepted = false;                     // the held-out error fell; else the value was left as it was
  std::string why;                           // nothing was fitted: why
};

// By value name. Rows of every eighth sample are held out (as in refit.h). Errors: those of the executor.
Result<std::map<std::string, ChannelFit>> fit_channels(const Model& changed, const Model& original, const Dataset& data,
                                                       const std::vector<ChannelSite>& sites);

}  // namespace onnxfold
