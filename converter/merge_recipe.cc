#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "converter/merge.h"

namespace onnxfold {
namespace {

// Every error names file and line.
class Reader {
 public:
  Reader(std::string file, MergeOptions& options) : file_(std::move(file)), options_(options) {}

  Status read(const YAML::Node& root) {
    if (!root.IsMap()) return error(root, "expected the keys merge_method, models and parameters");
    for (const auto& entry : root) {
      const std::string key = entry.first.Scalar();
      if (key == "merge_method") {
        options_.method = entry.second.Scalar();
      } else if (key == "base_model") {
        options_.base = path(entry.second.Scalar());
      } else if (key == "models") {
        OF_TRY(models(entry.second));
      } else if (key == "parameters") {
        OF_TRY(parameters(entry.second));
      } else if (key != "dtype") {  // mergekit writes it; the type of the anchor is kept
        return error(entry.first, fmt::format("unknown key '{}'; a merge has merge_method, base_model, models and "
                                              "parameters",
                                              key));
      }
    }
    return finish(root);
  }

 private:
  tl::unexpected<Error> error(const YAML::Node& where, const std::string& message) const {
    return fail(Code::kInvalidArgument, fmt::format("{}:{}: {}", file_, where.Mark().line + 1, message));
  }

  std::string path(const std::string& name) const {
    const std::filesystem::path given(name);
    return given.is_absolute() ? name : (std::filesystem::path(file_).parent_path() / given).string();
  }

  Status models(const YAML::Node& list) {
    if (!list.IsSequence()) return error(list, "models must be a list of {model: FILE}");
    for (const YAML::Node& item : list) {
      if (!item.IsMap() || !item["model"]) return error(item, "each entry of models needs the key model");
      options_.sources.push_back(path(item["model"].Scalar()));
      weights_.push_back(1);
      const YAML::Node given = item["parameters"];
      if (!given) continue;
      for (const auto& entry : given) {
        if (entry.first.Scalar() != "weight") {
          return error(entry.first, fmt::format("a model's only parameter here is weight; put '{}' under the "
                                                "parameters of the merge",
                                                entry.first.Scalar()));
        }
        OF_TRY(weight(entry.second, options_.sources.size() - 1));
      }
    }
    return {};
  }

  // A number, or a list of {filter, value} whose entry without filter is for all others.
  Status weight(const YAML::Node& value, std::size_t model) {
    if (!value.IsSequence()) {
      OF_ASSIGN(weights_[model], number(value));
      return {};
    }
    for (const YAML::Node& item : value) {
      if (!item.IsMap() || !item["value"]) return error(item, "expected {filter: PATTERN, value: NUMBER}");
      OF_ASSIGN(const double share, number(item["value"]));
      if (!item["filter"]) {
        weights_[model] = share;
        continue;
      }
      filtered_.push_back({pattern(item["filter"].Scalar()), model, share});
    }
    return {};
  }

  Result<double> number(const YAML::Node& value) const {
    double result = 0;
    if (!value.IsScalar() || !YAML::convert<double>::decode(value, result)) return error(value, "expected a number");
    return result;
  }

  // mergekit's filters are parts of names.
  static std::string pattern(const std::string& filter) {
    return filter.find_first_of("*?[") == std::string::npos ? "*" + filter + "*" : filter;
  }

  MergePattern& pattern_entry(const std::string& name) {
    for (MergePattern& entry : options_.patterns) {
      if (entry.pattern == name) return entry;
    }
    return options_.patterns.emplace_back(MergePattern{name, {}, {}});
  }

  Status parameters(const YAML::Node& map) {
    if (!map.IsMap()) return error(map, "parameters must be a map");
    for (const auto& entry : map) {
      const std::string key = entry.first.Scalar();
      if (!entry.second.IsSequence()) {
        options_.options[key] = entry.second.Scalar();
        continue;
      }
      for (const YAML::Node& item : entry.second) {
        if (!item.IsMap() || !item["value"]) return error(item, "expected {filter: PATTERN, value: NUMBER}");
        const std::string value = item["value"].Scalar();
        if (item["filter"]) {
          pattern_entry(pattern(item["filter"].Scalar())).options[key] = value;
        } else {
          options_.options[key] = value;
        }
      }
    }
    return {};
  }

  Status finish(const YAML::Node& root) {
    if (options_.sources.size() < 2) return error(root, "models must name at least two models");
    options_.weights = weights_;
    for (const Filtered& each : filtered_) {
      MergePattern& entry = pattern_entry(each.pattern);
      if (entry.weights.empty()) entry.weights = weights_;
      entry.weights[each.model] = each.weight;
    }
    return {};
  }

  struct Filtered {
    std::string pattern;
    std::size_t model;
    double weight;
  };

  std::string file_;
  MergeOptions& options_;
  std::vector<double> weights_;
  std::vector<Filtered> filtered_;
};

}  // namespace

Status read_merge_recipe(const std::string& path, MergeOptions& options) {
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) return fail(Code::kIo, fmt::format("cannot read recipe '{}'", path));
  try {
    return Reader(path, options).read(YAML::Load(text.str()));
  } catch (const YAML::Exception& e) {
    return fail(Code::kInvalidArgument, fmt::format("{}: {}", path, e.what()));
  }
}

}  // namespace onnxfold
