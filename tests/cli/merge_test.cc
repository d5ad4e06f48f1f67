// The verb merge as users and scripts call it.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::merge_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string model_text(const std::string& first, const std::string& second, const std::string& activation = "Relu") {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 2] x) => (float[N, 2] y) <float[2, 3] w1 = {" + first +
         "}, float[3] b1 = {1, 2, 3}, float[3, 2] w2 = {" + second +
         "}> { h = MatMul(x, w1) a = Add(h, b1) r = " + activation + "(a) y = MatMul(r, w2) }";
}
const std::string kA = model_text("1, 2, 3, 4, 5, 6", "1, 0.5, 2, 1, 3, -1");
const std::string kB = model_text("0, 1, -3, 2, 5, 1", "4, 0.5, 1, 1, 2, -1");

struct Parents {
  std::string folder = temp_dir();
  std::string a = write_model(folder, "a.onnx", kA), b = write_model(folder, "b.onnx", kB);
  std::string out = folder + "/ab.onnx";
};

TEST(Merge, EveryMethodGivesBackAModelMergedWithItself) {
  const Parents files;
  for (const std::string method :
       {"average", "slerp", "task-arithmetic", "ties", "dare", "model-stock", "align", "permute", "ot"}) {
    const Outcome merged = run_program(
        {"merge", files.a, files.a, "-o", files.out, "-f", "--method", method, "--base", files.a, "--no-check", "-q"});
    EXPECT_EQ(merged.code, 0) << method << merged.err;
    EXPECT_EQ(run_program({"verify", files.a, files.out, "--max-abs", "0"}).code, 0) << method;
  }
}

TEST(Merge, WeightsAtTheirEndsGiveTheParents) {
  const Parents files;
  for (const std::string method : {"average", "align:repair=none", "permute:repair=none", "ot:solver=exact"}) {
    const Outcome merged = run_program(
        {"merge", files.a, files.b, "-o", files.out, "-f", "--method", method, "--weights", "0,1", "--no-check", "-q"});
    EXPECT_EQ(merged.code, 0) << method << merged.err;
    EXPECT_EQ(run_program({"verify", files.b, files.out, "--max-abs", "0"}).code, 0) << method;
  }
  EXPECT_EQ(run_program({"merge", files.a, files.b, "-o", files.out, "-f", "--method", "align", "--weights", "1,0",
                         "--no-check", "-q"})
                .code,
            0);
  EXPECT_EQ(run_program({"verify", files.a, files.out, "--max-rel-l2", "1e-6"}).code, 0);
}

TEST(Merge, ReportsControlsAndSaysWhatIsWorse) {
  const Parents files;
  const std::string report = files.folder + "/report.json";
  const Outcome merged =
      run_program({"merge", files.a, files.b, "-o", files.out, "--method", "ot", "--report", report});
  EXPECT_EQ(merged.code, 0) << merged.err;
  EXPECT_THAT(merged.out, AllOf(HasSubstr("ensemble of their outputs"), HasSubstr("plain average"),
                                HasSubstr("half of the anchor"), HasSubstr("aligned model 1 alone")));
  const auto json = nlohmann::json::parse(read_file(report));
  const auto& layers = json.at("merge").at("layers");
  ASSERT_FALSE(layers.empty());
  EXPECT_GT(layers[0].at("sharpness").get<double>(), 0);
  EXPECT_GE(layers[0].at("transport_cost").get<double>(), 0);
  EXPECT_NE(json.at("merge").at("verdict").get<std::string>(), "");
}

TEST(Merge, SameBytesAtAnyNumberOfThreads) {
  const Parents files;
  for (const std::string method : {"align", "ot"}) {
    for (const std::string count : {"1", "2"}) {
      EXPECT_EQ(run_program({"merge", files.a, files.b, "-o", files.folder + "/" + count, "-f", "--method", method,
                             "--no-check", "--threads", count})
                    .code,
                0);
    }
    EXPECT_EQ(read_file(files.folder + "/1"), read_file(files.folder + "/2")) << method;
  }
}

TEST(Merge, TwoOfThreeCanBeTheSame) {
  const Parents files;
  const Outcome merged = run_program({"merge", files.a, files.b, files.b, "-o", files.out, "--method", "align"});
  EXPECT_EQ(merged.code, 0) << merged.err;
  EXPECT_THAT(merged.out, HasSubstr("aligned model 2 alone"));
}

TEST(Merge, RecipeWithFilters) {
  const Parents files;
  const std::string recipe = files.folder + "/recipe.yaml";
  std::ofstream(recipe)
      << "merge_method: average\nmodels:\n  - model: a.onnx\n    parameters:\n      weight:\n"
         "        - {filter: w1, value: 0}\n        - {value: 1}\n  - model: b.onnx\n    parameters:\n"
         "      weight:\n        - {filter: w1, value: 1}\n        - {value: 0}\n";
  const Outcome merged = run_program({"merge", "--recipe", recipe, "-o", files.out, "--no-check"});
  EXPECT_EQ(merged.code, 0) << merged.err;
  // w1 of b, all else of a.
  const std::string mixed =
      write_model(files.folder, "mixed.onnx", model_text("0, 1, -3, 2, 5, 1", "1, 0.5, 2, 1, 3, -1"));
  EXPECT_EQ(run_program({"verify", mixed, files.out, "--max-abs", "0"}).code, 0);
}

TEST(Merge, RecipeErrorsNameTheLine) {
  const Parents files;
  const std::string recipe = files.folder + "/recipe.yaml";
  std::ofstream(recipe) << "merge_method: average\nmodel:\n  - model: a.onnx\n";
  const Outcome outcome = run_program({"merge", "--recipe", recipe, "-o", files.out});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("recipe.yaml:2"), HasSubstr("model")));
}

TEST(Merge, PatternsByGlob) {
  const Parents files;
  const Outcome merged = run_program({"merge", files.a, files.b, "-o", files.out, "--method", "average", "--weights",
                                      "1,0", "--pattern", "w1=0,1", "--no-check"});
  EXPECT_EQ(merged.code, 0) << merged.err;
  const std::string mixed =
      write_model(files.folder, "mixed.onnx", model_text("0, 1, -3, 2, 5, 1", "1, 0.5, 2, 1, 3, -1"));
  EXPECT_EQ(run_program({"verify", mixed, files.out, "--max-abs", "0"}).code, 0);
}

struct Refusal {
  std::vector<std::string> arguments;
  std::string says;
};

TEST(Merge, RefusesWithClearErrors) {
  const Parents files;
  const std::string other = write_model(files.folder, "other.onnx", model_text("1,2,3,4,5,6", "1,2,3,4,5,6", "Tanh"));
  const std::string bad = write_model(files.folder, "nan.onnx", model_text("nan,2,3,4,5,6", "1,2,3,4,5,6"));
  const std::vector<Refusal> refusals = {
      {{files.a}, "at least two"},
      {{files.a, other}, "with tanh"},
      {{files.a, files.b, "--weights", "1,2,3"}, "3 weights for 2 models"},
      {{files.a, files.b, "--method", "magic"}, "there is no method 'magic'"},
      {{files.a, files.b, "--method", "ties"}, "needs --base"},
      {{files.a, files.b, "--method", "ot:features=activations"}, "needs data"},
      {{files.a, files.b, "--method", "ot:policy=weighted-scalar"}, "needs data"},
      {{files.a, files.b, "--method", "ot:solver=quantum"}, "solver"},
      {{files.a, files.b, "--method", "align", "--pattern", "w1=0,1"}, "takes no weights by pattern"},
      {{files.a, files.b, "--pattern", "nothing=0,1"}, "matches no weight"},
  };
  for (const Refusal& refusal : refusals) {
    std::vector<std::string> arguments = {"merge"};
    arguments.insert(arguments.end(), refusal.arguments.begin(), refusal.arguments.end());
    arguments.insert(arguments.end(), {"-o", files.out});
    const Outcome outcome = run_program(arguments);
    EXPECT_EQ(outcome.code, 2) << refusal.says << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(refusal.says));
    EXPECT_THAT(files_in(files.folder), Not(testing::Contains("ab.onnx"))) << refusal.says;
  }
  for (const std::string method : {"average", "align", "ot"}) {
    const Outcome outcome = run_program({"merge", bad, files.b, "-o", files.out, "--method", method});
    EXPECT_NE(outcome.code, 0) << method;
    EXPECT_THAT(outcome.err, HasSubstr("NaN")) << method;
  }
}

}  // namespace
}  // namespace onnxfold::test::merge_test
