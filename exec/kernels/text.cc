// Kernels on strings: StringConcat, StringSplit, RegexFullMatch, StringNormalizer, TfIdfVectorizer.
#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/kernels/axes.h"
#include "exec/kernels/kernels.h"

namespace onnxfold {
namespace {

using Strings = std::vector<std::string>;

std::optional<Strings> attr_strings(const Node& node, std::string_view name) {
  const Attribute* attribute = node.attribute(name);
  if (attribute == nullptr) return std::nullopt;
  const auto* values = std::get_if<Strings>(&attribute->value);
  return values == nullptr ? std::nullopt : std::optional<Strings>(*values);
}

Status need_strings(const KernelContext& ctx, std::size_t inputs) {
  OF_TRY(ctx.need(inputs));
  for (std::size_t i = 0; i < inputs; ++i) {
    if (ctx.in(i).dtype() != DType::kString) return ctx.invalid(fmt::format("input {} does not hold strings", i));
  }
  return {};
}

Status string_concat(KernelContext& ctx) {
  OF_TRY(need_strings(ctx, 2));
  const Array a = ctx.in(0), b = ctx.in(1);
  const std::optional<Dims> dims = broadcast_dims(a.dims(), b.dims());
  if (!dims) return ctx.invalid("inputs do not broadcast");
  Array& out = ctx.out(0, DType::kString, *dims);
  map_binary(a.data<std::string>(), a.dims(), b.data<std::string>(), b.dims(), out.mutable_data<std::string>(), *dims,
             [](const std::string& x, const std::string& y) { return x + y; });
  return {};
}

// As Python's str.split: by a delimiter, or by runs of white space when there is none. At most `limit` cuts.
Strings split_text(const std::string& text, const std::string& delimiter, std::int64_t limit) {
  Strings parts;
  const std::string blanks = " \t\n\r\f\v";
  std::size_t at = delimiter.empty() ? text.find_first_not_of(blanks) : 0;
  if (delimiter.empty() && at == std::string::npos) return parts;
  if (text.empty()) return parts;
  while (true) {
    const std::size_t cut = delimiter.empty() ? text.find_first_of(blanks, at) : text.find(delimiter, at);
    if (cut == std::string::npos || static_cast<std::int64_t>(parts.size()) >= limit) break;
    parts.push_back(text.substr(at, cut - at));
    at = delimiter.empty() ? text.find_first_not_of(blanks, cut) : cut + delimiter.size();
    if (at == std::string::npos) return parts;
  }
  std::string rest = text.substr(at);
  if (delimiter.empty() && static_cast<std::int64_t>(parts.size()) < limit) {
    rest.erase(rest.find_last_not_of(blanks) + 1);
  }
  parts.push_back(std::move(rest));
  return parts;
}

Status string_split(KernelContext& ctx) {
  OF_TRY(need_strings(ctx, 1));
  const Array data = ctx.in(0);
  const std::string delimiter = ctx.attr("delimiter", "");
  const std::int64_t limit = ctx.attr("maxsplit", std::numeric_limits<std::int64_t>::max());
  std::vector<Strings> rows;
  std::size_t width = 0;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    rows.push_back(split_text(data.data<std::string>()[i], delimiter, limit));
    width = std::max(width, rows.back().size());
  }
  Dims dims = data.dims();
  dims.push_back(static_cast<std::int64_t>(width));
  Array& out = ctx.out(0, DType::kString, std::move(dims));
  Array& counts = ctx.out(1, DType::kInt64, data.dims());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].begin(), rows[i].end(), out.mutable_data<std::string>() + i * width);
    counts.mutable_data<std::int64_t>()[i] = static_cast<std::int64_t>(rows[i].size());
  }
  return {};
}

// The one place where the regular expression library may throw.
Result<std::vector<bool>> match_all(const KernelContext& ctx, const std::string& pattern, const Array& texts) {
  constexpr std::size_t kLongest = 20000;  // std::regex recurses once per character
  std::vector<bool> matches;
  try {
    const std::regex expression(pattern, std::regex::ECMAScript);
    for (std::int64_t i = 0; i < texts.size(); ++i) {
      const std::string& text = texts.data<std::string>()[i];
      if (text.size() > kLongest) return ctx.unsupported("a string is too long for a regular expression");
      matches.push_back(std::regex_match(text, expression));
    }
  } catch (const std::regex_error& error) {
    return ctx.unsupported(fmt::format("regular expression \"{}\": {}", pattern, error.what()));
  }
  return matches;
}

Status regex_full_match(KernelContext& ctx) {
  OF_TRY(need_strings(ctx, 1));
  const Array data = ctx.in(0);
  OF_ASSIGN(const std::vector<bool> matches, match_all(ctx, ctx.attr("pattern", ""), data));
  Array& out = ctx.out(0, DType::kBool, data.dims());
  std::copy(matches.begin(), matches.end(), out.mutable_data<bool>());
  return {};
}

std::string cased(std::string text, const std::string& action) {
  for (char& c : text) {
    if (action == "LOWER" && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (action == "UPPER" && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return text;
}

Status string_normalizer(KernelContext& ctx) {
  OF_TRY(need_strings(ctx, 1));
  const Array data = ctx.in(0);
  if (data.rank() < 1 || data.rank() > 2 || (data.rank() == 2 && data.dim(0) != 1)) {
    return ctx.invalid("input must be [C] or [1, C]");
  }
  const std::string action = ctx.attr("case_change_action", "NONE");
  const bool sensitive = ctx.attr("is_case_sensitive", std::int64_t{0}) != 0;
  const std::string compare = sensitive ? "NONE" : "LOWER";
  std::set<std::string> stop;
  for (const std::string& word : attr_strings(ctx.node(), "stopwords").value_or(Strings{}))
    stop.insert(cased(word, compare));
  Strings kept;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    const std::string& text = data.data<std::string>()[i];
    if (!stop.contains(cased(text, compare))) kept.push_back(cased(text, action));
  }
  if (kept.empty()) kept.emplace_back();
  Dims dims = data.dims();
  dims.back() = static_cast<std::int64_t>(kept.size());
  Array& out = ctx.out(0, DType::kString, std::move(dims));
  std::copy(kept.begin(), kept.end(), out.mutable_data<std::string>());
  return {};
}

// The n-grams of TfIdfVectorizer: a sequence of pool entries and the output column it counts in.
template <typename T>
struct GramPool {
  std::map<std::vector<T>, std::pair<std::int64_t, float>> grams;  // column, weight
  std::int64_t columns = 0;
};

template <typename T>
Result<GramPool<T>> gram_pool(const KernelContext& ctx, const std::vector<T>& pool) {
  const auto starts = ctx.node().attr_ints("ngram_counts").value_or(Dims{});
  const auto columns = ctx.node().attr_ints("ngram_indexes").value_or(Dims{});
  const auto weights = ctx.node().attr_floats("weights");
  GramPool<T> result;
  std::size_t gram = 0;
  const auto end = static_cast<std::int64_t>(pool.size());
  for (std::size_t n = 1; n <= starts.size(); ++n) {
    const std::int64_t from = starts[n - 1], to = n < starts.size() ? starts[n] : end;
    if (from < 0 || to < from || to > end || (to - from) % static_cast<std::int64_t>(n) != 0) {
      return ctx.invalid("ngram_counts do not fit the pool");
    }
    for (std::int64_t at = from; at < to; at += static_cast<std::int64_t>(n), ++gram) {
      if (gram >= columns.size() || columns[gram] < 0 || columns[gram] > (1 << 28))
        return ctx.invalid("bad ngram_indexes");
      const float weight = weights && gram < weights->size() ? (*weights)[gram] : 1.0F;
      result.grams[std::vector<T>(pool.begin() + at, pool.begin() + at + static_cast<std::int64_t>(n))] = {
          columns[gram], weight};
    }
  }
  for (const std::int64_t column : columns) result.columns = std::max(result.columns, column + 1);
  return result;
}

template <typename T>
Status vectorize(KernelContext& ctx, const std::vector<T>& pool_items, const std::vector<T>& items) {
  OF_ASSIGN(const GramPool<T> pool, gram_pool(ctx, pool_items));
  const Array data = ctx.in(0);
  if (data.rank() > 2) return ctx.invalid("input must have rank 1 or 2");
  const std::int64_t rows = data.rank() == 2 ? data.dim(0) : 1;
  const std::int64_t width = rows == 0 ? 0 : data.size() / rows;
  const std::int64_t shortest = ctx.attr("min_gram_length", std::int64_t{1}),
                     longest = ctx.attr("max_gram_length", std::int64_t{1});
  const std::int64_t skips = ctx.attr("max_skip_count", std::int64_t{0});
  const std::string mode = ctx.attr("mode", "TF");
  Array& out = ctx.out(0, DType::kFloat32, data.rank() == 2 ? Dims{rows, pool.columns} : Dims{pool.columns});
  std::vector<double> counts(static_cast<std::size_t>(out.size()), 0.0), weights(counts.size(), 1.0);
  for (const auto& [gram, entry] : pool.grams) {
    for (std::int64_t row = 0; row < rows; ++row) {
      weights[static_cast<std::size_t>(row * pool.columns + entry.first)] = static_cast<double>(entry.second);
    }
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t n = std::max<std::int64_t>(1, shortest); n <= std::min(longest, width); ++n) {
      for (std::int64_t step = 1; step <= (n == 1 ? 1 : std::min(skips, width) + 1); ++step) {
        for (std::int64_t start = 0; start + (n - 1) * step < width; ++start) {
          std::vector<T> gram;
          for (std::int64_t k = 0; k < n; ++k)
            gram.push_back(items[static_cast<std::size_t>(row * width + start + k * step)]);
          const auto found = pool.grams.find(gram);
          if (found != pool.grams.end())
            counts[static_cast<std::size_t>(row * pool.columns + found->second.first)] += 1;
        }
      }
    }
  }
  visit_float(out.storage(), [&]<typename F>(Tag<F>) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const double value =
          mode == "TF" ? counts[i] : (mode == "IDF" ? (counts[i] > 0 ? 1.0 : 0.0) : counts[i]) * weights[i];
      out.mutable_data<F>()[i] = static_cast<F>(value);
    }
  });
  return {};
}

Status tf_idf_vectorizer(KernelContext& ctx) {
  OF_TRY(ctx.need(1));
  if (const auto pool = attr_strings(ctx.node(), "pool_strings")) {
    OF_TRY(need_strings(ctx, 1));
    const auto* text = ctx.in(0).data<std::string>();
    return vectorize<std::string>(ctx, *pool, Strings(text, text + ctx.in(0).size()));
  }
  OF_ASSIGN(const std::vector<std::int64_t> items, to_int64s(ctx.in(0)));
  return vectorize<std::int64_t>(ctx, ctx.node().attr_ints("pool_int64s").value_or(Dims{}), items);
}

}  // namespace

KernelRows text_kernels() {
  static const KernelRow kRows[] = {
      {"StringConcat", 20, string_concat},       {"StringSplit", 20, string_split},
      {"RegexFullMatch", 20, regex_full_match},  {"StringNormalizer", 10, string_normalizer},
      {"TfIdfVectorizer", 9, tf_idf_vectorizer},
  };
  return kRows;
}

}  // namespace onnxfold
