// Runs planned graphs. Internal to the executor.
#pragma once

#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "exec/plan.h"

namespace onnxfold {

// Constants of a model in run-time form. Kept from run to run up to a total size, so that small models pay for
// conversion once while large models stay on disk and are mapped as each node needs them.
class ConstantCache {
 public:
  explicit ConstantCache(Precision precision) : precision_(precision) {}
  Result<Datum> get(const Value& value);

 private:
  const Precision precision_;
  std::mutex mutex_;
  std::unordered_map<const Value*, Datum> kept_;
  std::int64_t kept_bytes_ = 0;
};

// Called with every value of the outermost graph when it is computed.
using ValueSink = std::function<Status(const Value& value, const Datum& datum)>;

class Runner {
 public:
  Runner(const Model* model, Precision precision, ConstantCache& constants)
      : model_(model), precision_(precision), constants_(constants) {}

  // Inputs by position; `captured` in the order of plan.captures. Errors: whatever a kernel reports; resource, naming
  // the node, when memory runs out.
  Result<std::vector<Datum>> run(const GraphPlan& plan, std::vector<Datum> inputs, std::vector<Datum> captured,
                                 const ValueSink& sink = nullptr);
  // One datum a slot of the plan. Runs one step and frees what nobody reads later; for runs that stop in between.
  using Frame = std::vector<Datum>;
  Status step(const GraphPlan& plan, const Step& step, Frame& frame, const ValueSink& sink = nullptr);

 private:
  Result<Datum> take(const GraphPlan& plan, Frame& frame, int slot);
  Result<std::vector<Datum>> run_step(const GraphPlan& plan, const Step& step, Frame& frame);
  Result<std::vector<Datum>> call(const GraphPlan& plan, const Step& step, Frame& frame, std::vector<Datum> inputs);
  Result<std::shared_ptr<const Expansion>> late_body(const Step& step, const std::vector<Datum>& inputs);

  const Model* model_;
  const Precision precision_;
  ConstantCache& constants_;
};

// All elements of a sparse tensor, absent ones as zero. Errors: corrupt for indices outside its shape.
Result<Tensor> densified(const SparseTensor& sparse);

// The static type of what flows along an edge.
Type type_of(const Datum& datum);

}  // namespace onnxfold
