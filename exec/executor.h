// Executor: runs a model on data, in float32 or float64, with taps on inner values.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "exec/array.h"
#include "ir/model.h"

namespace onnxfold {

using Feeds = std::map<std::string, Datum>;  // by graph input name

struct ExecutorOptions {
  Precision precision = Precision::kFloat32;
  std::vector<std::string> taps;  // names of inner values of the main graph to return as well
  bool tap_all = false;           // every array-valued inner value of the main graph
};

struct RunResult {
  std::vector<Datum> outputs;         // by position of the graph outputs
  std::map<std::string, Datum> taps;  // by value name
};

// Planned once, run many times. Holds a reference to the model: REQUIRES that it outlives the executor unchanged.
class Executor {
 public:
  // Errors: unsupported, naming every (operator, opset) without kernel or function body.
  static Result<std::unique_ptr<Executor>> create(const Model& model, ExecutorOptions options = {});
  ~Executor();

  // Runs on one set of inputs. Inputs with a default may be left out. Errors: invalid_argument (missing or wrong input,
  // naming it), whatever a kernel reports, resource when memory runs out.
  Result<RunResult> run(const Feeds& feeds) const;
  // Like run(), but hands taps to `sink` the moment they are computed and keeps none (for statistics over large
  // models).
  using TapSink = std::function<Status(const Value& value, const Datum& datum)>;
  Result<RunResult> run(const Feeds& feeds, const TapSink& sink) const;

 private:
  struct Plan;
  explicit Executor(std::unique_ptr<Plan> plan);
  std::unique_ptr<Plan> plan_;
};

// Runs one node on constant inputs (constant folding). `inputs` by position, absent where omitted.
Result<std::vector<Datum>> run_node(const Node& node, std::vector<Datum> inputs, Precision precision);
// Can the executor run this node at its opset, by kernel or function body (subgraphs included)?
bool supports(const Node& node);

// Number of threads used by every kernel (OpenMP). Results do not depend on it.
void set_threads(int threads);
int threads();

}  // namespace onnxfold
