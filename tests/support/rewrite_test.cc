#include "tests/support/rewrite_test.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <regex>
#include <sstream>

#include "formats/onnx/onnx_file.h"
#include "formats/onnx/schema.h"
#include "ir/dump.h"
#include "ir/verify.h"
#include "passes/registry.h"
#include "tests/support/canonical_text.h"
#include "tests/support/equivalence.h"

namespace onnxfold::test {
namespace {

std::int64_t count_of(const std::string& dims) {
  std::int64_t count = 1;
  std::stringstream stream(dims);
  for (std::string dim; std::getline(stream, dim, ',');) count *= std::stoll(dim);
  return count;
}

std::string seeded_values(const std::string& type, const std::string& dims, const std::string& name) {
  std::mt19937_64 random(std::hash<std::string>()(name));
  std::normal_distribution<double> normal;
  const bool floating = type.find("float") != std::string::npos || type == "double";
  std::string text;
  for (std::int64_t i = count_of(dims); i > 0; --i) {
    if (!text.empty()) text += ", ";
    text += floating ? fmt::format("{:.4f}", normal(random)) : std::to_string(random() % (type == "bool" ? 2 : 8));
  }
  return text;
}

// Writes seeded values into every `type[dims] name = {}`.
std::string fill(const std::string& text) {
  static const std::regex kEmpty(R"re((\w+)\s*\[([0-9, ]*)\]\s*("[^"]*"|[\w.]+)\s*=\s*\{\s*\})re");
  std::string result;
  auto at = text.cbegin();
  for (std::sregex_iterator it(text.begin(), text.end(), kEmpty), end; it != end; ++it) {
    result.append(at, (*it)[0].first);
    result += fmt::format("{}[{}] {} = {{{}}}", it->str(1), it->str(2), it->str(3),
                          seeded_values(it->str(1), it->str(2), it->str(3)));
    at = (*it)[0].second;
  }
  return result.append(at, text.cend());
}

// The same model in double precision.
std::string widened(const std::string& text) {
  static const std::regex kFloat(R"re(\bfloat\b)re"), kCastTo(R"re(\bto\s*=\s*1\b)re");
  return std::regex_replace(std::regex_replace(text, kFloat, "double"), kCastTo, "to = 11");
}

bool is_live(const Model& model, const Graph* graph) {
  const std::vector<Graph*> graphs = const_cast<Model&>(model).graphs();
  return std::find(graphs.begin(), graphs.end(), graph) != graphs.end();
}

// Lines of `expected` and `actual` side by side where they differ.
std::string line_diff(const std::string& expected, const std::string& actual) {
  std::stringstream a(expected), b(actual);
  std::string result, x, y;
  while (true) {
    const bool more_a = static_cast<bool>(std::getline(a, x));
    const bool more_b = static_cast<bool>(std::getline(b, y));
    if (!more_a && !more_b) return result;
    if (more_a && more_b && x == y) {
      result += "  " + x + "\n";
      continue;
    }
    if (more_a) result += "- " + x + "\n";
    if (more_b) result += "+ " + y + "\n";
  }
}

void expect_equivalent(const std::string& pass, const std::string& text, const OptionMap& options) {
  const Exactness exactness = find_pass(pass)->exactness;
  const auto original = model_from_text(text);
  const auto rewritten = original->clone();
  ASSERT_TRUE(run_pass(pass, *rewritten, options));
  const double limit = exactness == Exactness::kExact ? 0 : tolerance(Exactness::kRounding, false);
  EXPECT_EQ(difference(*original, *rewritten, Precision::kFloat64, limit), "") << "pass " << pass << " on\n" << text;
  if (exactness != Exactness::kRounding) return;
  const auto wide = model_from_text(widened(text));
  const auto wide_rewritten = wide->clone();
  ASSERT_TRUE(run_pass(pass, *wide_rewritten, options));
  EXPECT_EQ(difference(*wide, *wide_rewritten, Precision::kFloat64, tolerance(exactness, true)), "")
      << "pass " << pass << " in double precision on\n"
      << text;
}

}  // namespace

std::unique_ptr<Model> model_from_text(const std::string& text) {
  auto model = parse_model_text(fill(text));
  if (!model) {
    ADD_FAILURE() << model.error().message << "\nin\n" << text;
    return std::make_unique<Model>();
  }
  const Status checked = check_model(**model);
  EXPECT_TRUE(checked) << checked.error().message << "\nin\n" << text;
  const Status inferred = infer_shapes(**model);
  EXPECT_TRUE(inferred) << inferred.error().message << "\nin\n" << text;
  return std::move(*model);
}

Result<bool> run_pass(const std::string& pass, Model& model, const OptionMap& options, std::vector<Remark>* remarks) {
  const PassInfo* info = find_pass(pass);
  if (info == nullptr) return fail(Code::kInvalidArgument, "no pass '" + pass + "'");
  OF_ASSIGN(const PassOptions parsed, PassOptions::parse(pass, info->options, options));
  const std::unique_ptr<Pass> instance = info->make(parsed);
  PassContext context(model, pass);
  const std::uint64_t before = fingerprint(model);
  bool changed = false;
  for (Graph* graph : model.graphs()) {
    if (!is_live(model, graph)) continue;  // it went with a node that this run erased
    OF_ASSIGN(const bool here, instance->run(*graph, context));
    changed = changed || here;
  }
  const Status verified = verify(model);
  EXPECT_TRUE(verified) << verified.error().message << "\n" << dump(model);
  EXPECT_EQ(changed, fingerprint(model) != before) << pass << " does not tell the truth about what it changed\n"
                                                   << dump(model);
  for (Graph* graph : model.graphs()) graph->purge();
  const Status checked = check_model(model);
  EXPECT_TRUE(checked) << checked.error().message << "\n" << dump(model);
  const Status inferred = infer_shapes(model, /*strict=*/true);
  EXPECT_TRUE(inferred) << inferred.error().message << "\n" << dump(model);
  if (remarks != nullptr) *remarks = context.take_remarks();
  return changed;
}

void expect_rewrite(const std::string& pass, const std::string& before, const std::string& after,
                    const OptionMap& options, const RewriteChecks& checks) {
  ASSERT_TRUE((checks.idempotent && checks.equivalent) || !checks.reason.empty()) << "a check is off without a reason";
  const auto model = model_from_text(before);
  const Result<bool> changed = run_pass(pass, *model, options);
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_TRUE(*changed) << pass << " did not apply to\n" << before;
  const std::string expected = canonical_text(*model_from_text(after)), actual = canonical_text(*model);
  EXPECT_TRUE(expected == actual) << "expected (-) and actual (+):\n" << line_diff(expected, actual);
  if (checks.idempotent) {
    const Result<bool> again = run_pass(pass, *model, options);
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_FALSE(*again) << "a second run of " << pass << " changed the model again:\n" << dump(*model);
  }
  if (checks.equivalent) expect_equivalent(pass, before, options);
}

void expect_unchanged(const std::string& pass, const std::string& text, const OptionMap& options) {
  const auto model = model_from_text(text);
  const std::string before = canonical_text(*model);
  const Result<bool> changed = run_pass(pass, *model, options);
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_FALSE(*changed) << pass << " applied to\n" << text;
  EXPECT_EQ(before, canonical_text(*model));
}

void expect_error(const std::string& pass, const std::string& text, const std::string& message_part,
                  const OptionMap& options) {
  const auto model = model_from_text(text);
  const Result<bool> changed = run_pass(pass, *model, options);
  ASSERT_FALSE(changed) << pass << " did not fail on\n" << text;
  EXPECT_NE(changed.error().message.find(message_part), std::string::npos) << changed.error().message;
}

}  // namespace onnxfold::test
