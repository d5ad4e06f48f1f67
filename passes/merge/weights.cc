#include "passes/merge/weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/structure/correspondence.h"
#include "passes/merge/merge_in_parts.h"

namespace onnxfold {
namespace {

std::uint64_t hash_name(std::string_view text) {
  std::uint64_t hash = 1469598103934665603ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return hash;
}

// Integer and boolean constants are shapes, axes or quantized weights: they must say the same.
Status check_equal(const Value& other, const Value& anchor, const std::string& model) {
  const Tensor& x = *parameter(&other);
  const Tensor& y = *parameter(&anchor);
  if (x.dtype() == DType::kString) return {};
  OF_ASSIGN(const std::string one, x.content_hash());
  OF_ASSIGN(const std::string two, y.content_hash());
  if (one == two) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("constant '{}' of type {} differs from '{}' of {}: only floating weights can be merged",
                          anchor.name(), name(y.dtype()), other.name(), model));
}

bool matches(const MergeRule& rule, const Value& value) {
  if (glob_match(rule.pattern, value.name())) return true;
  return std::any_of(value.uses().begin(), value.uses().end(), [&](const Use& use) {
    return use.node != nullptr && glob_match(rule.pattern, use.node->label());
  });
}

// Scalars of the graph (the 0.5 of a GELU) are no weights: they stay where they are.
Result<bool> small_and_equal(const WeightMerge& merge) {
  constexpr std::int64_t kSmall = 64;
  if (merge.parents.back().nbytes() > kSmall) return false;
  OF_ASSIGN(const std::string anchor, merge.parents.back().content_hash());
  for (const Tensor& parent : merge.parents) {
    OF_ASSIGN(const std::string other, parent.content_hash());
    if (other != anchor) return false;
  }
  if (!merge.base.defined()) return true;
  OF_ASSIGN(const std::string other, merge.base.content_hash());
  return other == anchor;
}

class Merger {
 public:
  Merger(const std::vector<const Model*>& parents, const Model* base, const PlainMerge& merge)
      : parents_(parents), base_(base), merge_(merge), uses_(merge.rules.size()) {}

  Result<std::unique_ptr<Model>> run(std::vector<Remark>* remarks) {
    std::unique_ptr<Model> result = parents_.back()->clone();
    for (std::size_t i = 0; i + 1 < parents_.size(); ++i) OF_TRY(add(*parents_[i], *result, model_name(i)));
    if (base_ != nullptr) OF_TRY(add(*base_, *result, model_name(parents_.size())));
    OF_ASSIGN(const Correspondence own, correspond(parents_.back()->graph(), result->graph()));
    for (const ConstantPair& pair : own.constants) OF_TRY(replace(*pair.second, remarks));
    for (std::size_t i = 0; i < uses_.size(); ++i) {
      if (uses_[i] > 0) continue;
      return fail(Code::kInvalidArgument, fmt::format("pattern '{}' matches no weight", merge_.rules[i].pattern));
    }
    return result;
  }

 private:
  std::string model_name(std::size_t index) const {
    if (index < merge_.names.size()) return merge_.names[index];
    return index == parents_.size() ? "the base model" : fmt::format("model {}", index + 1);
  }
  std::string shapes_differ(const Value& anchor, const Value& other, std::size_t map) const {
    const bool is_base = base_ != nullptr && map + 1 == maps_.size();
    return fmt::format("weight '{}' is [{}] and '{}' of {} is [{}]: {}", anchor.name(),
                       fmt::join(parameter(&anchor)->dims(), ","), other.name(), names_[map],
                       fmt::join(parameter(&other)->dims(), ","),
                       is_base ? "a base has the shapes of the models that were tuned from it"
                               : "models of different widths need --method ot");
  }

  Status add(const Model& other, const Model& anchor, const std::string& model) {
    auto found = correspond(other.graph(), anchor.graph());
    if (!found) return fail(found.error().in(model));
    names_.push_back(model);
    maps_.push_back(std::move(*found));
    return {};
  }

  Status replace(Value& value, std::vector<Remark>* remarks) {
    const Tensor anchor = *parameter(&value);
    WeightMerge merge{value.name(), {}, {}, merge_.weights, merge_.settings, merge_.combine, 0};
    for (std::size_t i = 0; i <= parents_.size(); ++i) merge.names.push_back(model_name(i));
    merge.seed = merge_.seed ^ hash_name(value.name());
    for (std::size_t i = 0; i < maps_.size(); ++i) {
      const Value& other = *maps_[i].first_of.at(&value);
      if (!is_float(anchor.dtype())) {
        OF_TRY(check_equal(other, value, names_[i]));
        continue;
      }
      const Tensor& tensor = *parameter(&other);
      if (tensor.dims() != anchor.dims()) {
        return fail(Code::kInvalidArgument, shapes_differ(value, other, i));
      }
      const bool is_base = base_ != nullptr && i + 1 == maps_.size();
      (is_base ? merge.base : merge.parents.emplace_back()) = tensor;
    }
    if (!is_float(anchor.dtype())) return {};
    merge.parents.push_back(anchor);
    choose(value, merge);
    OF_ASSIGN(const bool constant_of_the_graph, small_and_equal(merge));
    if (constant_of_the_graph) return {};
    if (remarks != nullptr) {
      remarks->push_back({Remark::Kind::kApplied, "merge", value.name(), "", anchor.nbytes(), anchor.nbytes(), ""});
    }
    replace_constant(value, Tensor::deferred(anchor.dtype(), anchor.dims(), std::move(merge)));
    return {};
  }

  void choose(const Value& value, WeightMerge& merge) {
    for (std::size_t i = 0; i < merge_.rules.size(); ++i) {
      const MergeRule& rule = merge_.rules[i];
      if (!matches(rule, value)) continue;
      ++uses_[i];
      if (!rule.weights.empty()) merge.weights = rule.weights;
      if (rule.has_settings) merge.settings = rule.settings;
    }
  }

  const std::vector<const Model*>& parents_;
  const Model* base_;
  const PlainMerge& merge_;
  std::vector<Correspondence> maps_;  // of all parents but the anchor, then of the base
  std::vector<std::string> names_;
  std::vector<int> uses_;
};

}  // namespace

Result<std::unique_ptr<Model>> merge_weights(const std::vector<const Model*>& parents, const Model* base,
                                             const PlainMerge& merge, std::vector<Remark>* remarks) {
  return Merger(parents, base, merge).run(remarks);
}

}  // namespace onnxfold
