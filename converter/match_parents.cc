#include "converter/match_parents.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/compare/metrics.h"
#include "analysis/structure/blocks.h"
#include "analysis/structure/correspondence.h"
#include "converter/model_files.h"
#include "converter/pipeline.h"
#include "formats/onnx/schema.h"
#include "passes/merge/alignment.h"
#include "passes/merge/respell.h"

namespace onnxfold {
namespace {

using Renames = std::vector<std::pair<Value*, std::string>>;

void rename(Model& model, const Renames& renames) {
  // In two steps, as names may be exchanged.
  for (const auto& entry : renames) model.graph().rename(*entry.first, "renamed_interface");
  for (const auto& entry : renames) model.graph().rename(*entry.first, entry.second);
}

// Gives the inputs (and outputs) of `other` the names they have in the anchor, so that both read the same data.
void take_names(Model& other, const Model& anchor, const Correspondence& map) {
  Renames renames;
  const auto collect = [&](const std::vector<Value*>& values) {
    for (const Value* value : values) {
      const auto found = map.first_of.find(value);
      if (found == map.first_of.end() || found->second->name() == value->name()) continue;
      renames.emplace_back(found->second, value->name());
    }
  };
  collect(anchor.graph().inputs());
  collect(anchor.graph().outputs());
  rename(other, renames);
}

// The same by place, where names do not agree.
void take_names_by_place(const std::vector<Value*>& own, const std::vector<Value*>& theirs, Renames& renames) {
  const auto has = [](const std::vector<Value*>& values, const std::string& name) {
    return std::any_of(values.begin(), values.end(), [&](const Value* value) { return value->name() == name; });
  };
  const bool named = std::all_of(theirs.begin(), theirs.end(), [&](const Value* v) { return has(own, v->name()); });
  for (std::size_t i = 0; i < own.size() && i < theirs.size() && !named; ++i) {
    renames.emplace_back(own[i], theirs[i]->name());
  }
}

bool holds_half(const Model& model) {
  for (const Value* value : model.graph().values()) {
    const Tensor* tensor = parameter(value);
    if (tensor != nullptr && tensor->size() > 1 && is_float(tensor->dtype()) && tensor->dtype() != DType::kFloat32 &&
        tensor->dtype() != DType::kFloat64) {
      return true;
    }
  }
  return false;
}

std::string depth_hint(const Model& a, const Model& b) {
  const std::size_t x = find_blocks(a.graph()).blocks.size(), y = find_blocks(b.graph()).blocks.size();
  return x == y ? "" : fmt::format(" (they have {} and {} residual blocks: depths must be equal)", x, y);
}

// What the two spellings have in common is known by structure; that it is all they need is seen by running them.
Status check_same_function(const Model& model, const Model& respelled, const MatchData& from) {
  const std::unique_ptr<Model> own = model.clone();
  Renames renames;
  take_names_by_place(own->graph().inputs(), respelled.graph().inputs(), renames);
  take_names_by_place(own->graph().outputs(), respelled.graph().outputs(), renames);
  rename(*own, renames);
  OF_ASSIGN(const Dataset data, make_dataset(respelled, from.path, from.seed, 4));
  auto compared = compare_models(*own, respelled, data);
  if (!compared && from.path.empty()) {  // sizes may be made up that only one of the two takes
    OF_ASSIGN(const Dataset other, make_dataset(*own, from.path, from.seed, 4));
    compared = compare_models(*own, respelled, other);
  }
  OF_ASSIGN(const Comparison comparison, std::move(compared));
  const double limit = holds_half(model) || holds_half(respelled) ? 2e-2 : 1e-3;
  for (const OutputMetrics& output : comparison.outputs) {
    if (!output.shape_or_type_differs && !output.new_nan_or_inf && output.max_rel_l2 <= limit) continue;
    return fail(
        Code::kInvalidArgument,
        fmt::format("the models do not correspond: they look alike, but with the weights of one in the graph of "
                    "the other output '{}' is off by {:.2g} (what has no weights differs: masks, positions, "
                    "constants)",
                    output.output, output.max_rel_l2));
  }
  return {};
}

class Matcher {
 public:
  Matcher(const std::vector<NamedModel>& models, const MatchData& data, std::vector<std::string>& notes)
      : models_(models), data_(data), notes_(notes) {}

  Status run() {
    std::vector<std::string> done;
    auto matched = match_all(done);
    if (!matched) {
      const Error first = matched.error();
      const bool embeddings = expand_embeddings();
      done = {"EmbedLayerNormalization was written with standard operators"};
      if (embeddings) matched = match_all(done);
      if (!matched) {
        if (!normalise()) return fail(embeddings ? matched.error() : first);
        done = {
            "all models were cleaned up to find what corresponds: the result's nodes are not those of the anchor's "
            "file"};
        if (!match_all(done)) return fail(embeddings ? matched.error() : first);
      }
    }
    notes_.insert(notes_.end(), done.begin(), done.end());
    return {};
  }

 private:
  Model& anchor() const { return **models_.back().model; }

  Status match_all(std::vector<std::string>& done) const {
    std::vector<std::unique_ptr<Model>> ready(models_.size());
    for (std::size_t i = 0; i + 1 < models_.size(); ++i) {
      Model& other = **models_[i].model;
      const auto map = correspond(other.graph(), anchor().graph());
      if (map) {
        take_names(other, anchor(), *map);
        continue;
      }
      auto written = respell(other);
      if (!written) {
        Error error = written.error().in(fmt::format("'{}' and '{}'", models_[i].path, models_.back().path));
        error.message += depth_hint(other, anchor());
        return fail(std::move(error));
      }
      ready[i] = std::move(*written);
      done.push_back(fmt::format(
          "'{}' has another graph (another exporter): its weights were written into the anchor's", models_[i].path));
    }
    for (std::size_t i = 0; i < ready.size(); ++i) {
      if (ready[i] != nullptr) *models_[i].model = std::move(ready[i]);
    }
    return {};
  }

  Result<std::unique_ptr<Model>> respell(Model& other) const {
    OF_TRY(infer_shapes(other));
    OF_TRY(infer_shapes(anchor()));
    unshare_vectors(anchor().graph());
    OF_ASSIGN(std::unique_ptr<Model> written, respelled(other, anchor()));
    OF_TRY(check_same_function(other, *written, data_));
    const auto map = correspond(written->graph(), anchor().graph());
    if (!map) return fail(map.error());
    return written;
  }

  bool expand_embeddings() {
    const auto holds = [](const NamedModel& each) {
      const auto nodes = (*each.model)->graph().nodes();
      return std::any_of(nodes.begin(), nodes.end(),
                         [](const Node* node) { return node->is("EmbedLayerNormalization", "com.microsoft"); });
    };
    if (std::none_of(models_.begin(), models_.end(), holds)) return false;
    Recipe recipe;
    recipe.steps.push_back({"expand-norm", {{"only-embeddings", "true"}}, {}});
    return run_on_all(recipe);
  }

  // Standard operators, folded constants, Linears of their own.
  bool normalise() {
    Recipe recipe;
    for (const char* pass : {"expand-linear", "expand-attention", "expand-norm"})
      recipe.steps.push_back({pass, {}, {}});
    const auto clean = load_recipe("clean");
    if (!clean) return false;
    recipe.steps.insert(recipe.steps.end(), clean->steps.begin(), clean->steps.end());
    return run_on_all(recipe);
  }

  bool run_on_all(const Recipe& recipe) {
    for (const NamedModel& each : models_) {
      std::unique_ptr<Model> copy = (*each.model)->clone();
      if (!run_pipeline(*copy, recipe)) return false;
      *each.model = std::move(copy);
    }
    return true;
  }

  const std::vector<NamedModel>& models_;
  const MatchData& data_;
  std::vector<std::string>& notes_;
};

}  // namespace

Status match_parents(const std::vector<NamedModel>& models, const MatchData& data, std::vector<std::string>& notes) {
  return Matcher(models, data, notes).run();
}

}  // namespace onnxfold
