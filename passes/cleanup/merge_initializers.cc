// Two initializers of equal type, shape and bytes => one.
//
// Constant nodes take part once lift-constants has made initializers of them. Not merged: initializers that a graph
// input can override, public ones, ones with quantization annotations, deferred tensors (their bytes do not exist yet),
// strings. Exact. Linear: only tensors that share type, shape and their first and last bytes are hashed.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "passes/pass.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::size_t kProbe = 64;  // bytes from either end

bool candidate(const Value& value) {
  const Tensor* tensor = value.constant();
  return tensor != nullptr && value.producer() == nullptr && !value.is_graph_output() && !value.uses().empty() &&
         value.quantization.empty() && !tensor->is_deferred() && tensor->dtype() != DType::kString;
}

// Type, shape and a few bytes: different for most tensors that differ.
Result<std::string> probe(const Tensor& tensor) {
  std::string key(name(tensor.dtype()));
  for (const std::int64_t dim : tensor.dims()) key += "," + std::to_string(dim);
  key += ":";
  OF_ASSIGN(const Bytes bytes, tensor.bytes());
  const std::size_t count = std::min(kProbe, bytes.size());
  if (count == 0) return key;
  key.append(reinterpret_cast<const char*>(bytes.data()), count);
  key.append(reinterpret_cast<const char*>(bytes.data()) + bytes.size() - count, count);
  return key;
}

class MergeInitializers final : public Pass {
 public:
  Result<bool> run(Graph& graph, PassContext&) override {
    std::vector<std::vector<Value*>> groups;
    std::unordered_map<std::string, std::size_t> group_of;
    for (Value* value : graph.initializers()) {
      if (!candidate(*value)) continue;
      OF_ASSIGN(std::string key, probe(*value->constant()));
      const auto [found, fresh] = group_of.emplace(std::move(key), groups.size());
      if (fresh) groups.emplace_back();
      groups[found->second].push_back(value);
    }
    bool changed = false;
    for (const std::vector<Value*>& group : groups) {
      if (group.size() < 2) continue;
      OF_ASSIGN(const bool merged, merge(graph, group));
      changed = changed || merged;
    }
    return changed;
  }

 private:
  static Result<bool> merge(Graph& graph, const std::vector<Value*>& group) {
    std::vector<std::string> hashes;
    for (const Value* value : group) {
      OF_ASSIGN(hashes.emplace_back(), value->constant()->content_hash());
    }
    std::unordered_map<std::string, Value*> first;
    bool changed = false;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const auto [found, fresh] = first.emplace(hashes[i], group[i]);
      if (fresh || !graph.can_replace(*group[i], *found->second)) continue;
      graph.replace_all_uses(*group[i], *found->second);
      graph.erase(*group[i]);
      changed = true;
    }
    return changed;
  }
};

}  // namespace

std::unique_ptr<Pass> make_merge_initializers(const PassOptions&) { return std::make_unique<MergeInitializers>(); }

}  // namespace onnxfold
