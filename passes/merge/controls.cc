#include "passes/merge/controls.h"

#include <algorithm>
#include <set>

#include "analysis/structure/correspondence.h"
#include "analysis/structure/norm.h"

namespace onnxfold {
namespace {

std::set<const Value*> norm_parameters(const Graph& graph) {
  std::set<const Value*> values;
  for (const Norm& norm : find_norms(graph)) {
    values.insert(norm.gain);
    values.insert(norm.bias);
  }
  for (const Node* node : graph.nodes()) {
    const bool norm = node->is("BatchNormalization") || node->is("InstanceNormalization") ||
                      node->is("GroupNormalization") || node->is("LayerNormalization");
    if (norm) values.insert(node->inputs().begin() + 1, node->inputs().end());
  }
  return values;
}

Result<bool> differ(const Tensor& x, const Tensor& y) {
  if (x.dims() != y.dims()) return true;
  OF_ASSIGN(const std::string one, x.content_hash());
  OF_ASSIGN(const std::string two, y.content_hash());
  return one != two;
}

Tensor halved(const Tensor& tensor) {
  return Tensor::deferred(tensor.dtype(), tensor.dims(), [tensor]() -> Result<Buffer> {
    OF_ASSIGN(std::vector<double> numbers, to_doubles(tensor));
    for (double& x : numbers) x *= 0.5;
    OF_ASSIGN(const Tensor made, from_doubles(tensor.dtype(), tensor.dims(), numbers));
    OF_ASSIGN(const Bytes bytes, made.bytes());
    return Buffer(bytes.span().begin(), bytes.span().end());
  });
}

}  // namespace

Result<std::unique_ptr<Model>> half_anchor(const std::vector<const Model*>& parents) {
  std::unique_ptr<Model> result = parents.back()->clone();
  OF_ASSIGN(const Correspondence map, correspond(parents.front()->graph(), result->graph()));
  const std::set<const Value*> norms = norm_parameters(result->graph());
  for (const ConstantPair& pair : map.constants) {
    const Tensor& tensor = *parameter(pair.second);
    if (!is_float(tensor.dtype()) || norms.count(pair.second) != 0) continue;
    OF_ASSIGN(const bool differs, differ(*parameter(pair.first), tensor));
    if (differs) replace_constant(*pair.second, halved(tensor));
  }
  return result;
}

}  // namespace onnxfold
