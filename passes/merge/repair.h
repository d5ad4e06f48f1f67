// Repair of a merged model in closed form, from unlabelled data.
//
// stats (REPAIR, Jordan et al., 2023): walks the network; every output channel of a Linear gets the mean and the
// deviation that it has in the aligned parents, in the mean.
// regmean (Jin et al., 2023): W = (sum w_i G_i)^-1 sum w_i G_i W_i, G_i = X_i'X_i of what reaches the Linear in parent
// i. ridge: walks the network; every Linear is fitted so that, on what reaches it in the merged model, it gives the
// mean of what the aligned parents give there (student input, teacher target), toward the merged weight:
// (rows of the position that the outputs read may weigh more than others)
//   [W; b] = argmin ||[X 1] [W; b] - Y||^2 + lambda ||[W; b] - [W0; b0]||^2,  lambda = damping * mean diagonal of X'X.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "analysis/calibrate/dataset.h"
#include "ir/model.h"

namespace onnxfold {

struct RepairOptions {
  double damping = 0;           // 0: of every Linear by holding out half of the batches
  bool stream = true;           // a Linear that ends a branch is fitted to the residual stream after the branch
  int rounds = 1;               // walks over the whole network
  bool together = false;        // ridge: Linears that end two branches in a row are fitted to the stream behind both
  double focus = 1;             // ridge: weight of the position that the outputs read, where they read one
  std::vector<double> weights;  // of the parents' outputs
};

// REQUIRES: `parents` are in one basis and correspond to `merged`. Returns how many Linears were fitted. Errors: those
// of the executor; unsupported, when statistics hold NaN.
Result<int> repair_ridge(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                         const RepairOptions& options);

// The same for the other two. Of regmean only `damping` (0: 1e-6) and `weights` count, of stats only `weights`.
Result<int> repair_regmean(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                           const RepairOptions& options);
Result<int> repair_stats(Model& merged, const std::vector<const Model*>& parents, const Dataset& data,
                         const RepairOptions& options);

// BatchNormalization: mean and variance of what reaches it in this model, one node after the other. Returns how many.
Result<int> recompute_batch_statistics(Model& model, const Dataset& data);

}  // namespace onnxfold
