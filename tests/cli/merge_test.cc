// The verb merge as users and scripts call it.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/npz/npz.h"
#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::merge_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string model_text(const std::string& first, const std::string& second, const std::string& activation = "Relu") {
  return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 2] x) => "
         "(float[N, 2] y) <float[2, 3] w1 = {" +
         first + "}, float[3] b1 = {1, 2, 3}, float[3, 2] w2 = {" + second +
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
  std::ofstream(recipe) << "merge_method: average\nmodels:\n  - model: "
                           "a.onnx\n    parameters:\n      weight:\n"
                           "        - {filter: w1, value: 0}\n        - "
                           "{value: 1}\n  - model: b.onnx\n    parameters:\n"
                           "      weight:\n        - {filter: w1, value: 1}\n  "
                           "      - {value: 0}\n";
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

// Two fine-tunes of one base, and data with and without labels.
struct Tunes {
  // `add` to some weights of a base of 4 x 6 and 6 x 3.
  static std::string text(int seed, double add, double sign = 1) {
    const auto numbers = [&](int count, int salt) {
      std::string list;
      for (int i = 0; i < count; ++i) {
        const double own = (i * 7 + seed * 5 + salt) % 3 == 0 ? add : 0;
        list += (i == 0 ? "" : ", ") + std::to_string(sign * ((i * 37 + salt * 11) % 23 - 11) / 8.0 + own);
      }
      return list;
    };
    return "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 4] x) => "
           "(float[N, 3] y) <float[4, 6] w1 = {" +
           numbers(24, 1) + "}, float[6] b1 = {1, 2, 3, 4, 5, 6}, float[6, 3] w2 = {" + numbers(18, 2) +
           "}> { h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) y = MatMul(r, "
           "w2) }";
  }
  std::string data(bool labelled, int count = 24) const {
    std::vector<float> x;
    std::vector<std::int64_t> labels;
    for (int i = 0; i < count; ++i) {
      for (int j = 0; j < 4; ++j) x.push_back(static_cast<float>((i * 13 + j * 5) % 17 - 8) / 4);
      labels.push_back(i % 3);
    }
    const std::string path = folder + (labelled ? "/labelled.npz" : "/plain.npz");
    std::map<std::string, Tensor> arrays = {{"x", Tensor::of<float>({count, 4}, x)}};
    if (labelled) arrays.emplace("labels", Tensor::of<std::int64_t>({count}, labels));
    EXPECT_TRUE(save_npz(path, arrays));
    return path;
  }
  Outcome merge(std::vector<std::string> more) const {
    std::vector<std::string> all = {"merge", a, b, "-o", out, "-f"};
    all.insert(all.end(), more.begin(), more.end());
    return run_program(all);
  }

  std::string folder = temp_dir();
  std::string base = write_model(folder, "base.onnx", text(0, 0)), a = write_model(folder, "a.onnx", text(1, 0.25)),
              b = write_model(folder, "b.onnx", text(2, -0.25)), out = folder + "/ab.onnx";
};

TEST(Merge, WithABaseAndNoLabelsTheRuleIsTaken) {
  const Tunes tunes;
  const Outcome alone = tunes.merge({"--base", tunes.base});
  EXPECT_EQ(alone.code, 0) << alone.err;
  EXPECT_THAT(alone.out, AllOf(HasSubstr("ties:density=0.8"), HasSubstr("with labelled data")));
  const Outcome unlabelled = tunes.merge({"--base", tunes.base, "--calibration", tunes.data(false)});
  EXPECT_THAT(unlabelled.out, AllOf(HasSubstr("ties:density=0.8"), HasSubstr("without labels")));
  EXPECT_THAT(unlabelled.out, Not(HasSubstr("one base")));
}

TEST(Merge, WithABaseAndLabelsMethodsAreTried) {
  const Tunes tunes;
  const std::string labelled = tunes.data(true);
  const Outcome chosen = tunes.merge({"--base", tunes.base, "--calibration", labelled});
  EXPECT_EQ(chosen.code, 0) << chosen.err;
  EXPECT_THAT(chosen.out, AllOf(HasSubstr("is best of what was tried, by the labels"), HasSubstr("task-arithmetic"),
                                Not(HasSubstr("flatters"))));
  EXPECT_THAT(chosen.out, Not(HasSubstr("no repair is fitted to"))) << "one batch cannot be halved";
  const std::string first = read_file(tunes.out);
  EXPECT_EQ(tunes.merge({"--base", tunes.base, "--calibration", labelled, "--threads", "1", "-q"}).code, 0);
  EXPECT_EQ(read_file(tunes.out), first);
  EXPECT_THAT(tunes.merge({"--base", tunes.base, "--data", labelled}).out, HasSubstr("flatters"));
  const Outcome named = tunes.merge({"--base", tunes.base, "--calibration", labelled, "--method", "dare"});
  EXPECT_THAT(named.out, Not(HasSubstr("tried")));
  const Outcome halves = tunes.merge({"--base", tunes.base, "--calibration", tunes.data(true, 80)});
  EXPECT_EQ(halves.code, 0) << halves.err;
  EXPECT_THAT(halves.out, HasSubstr("on the half that no repair is fitted to: align"));
}

TEST(Merge, FineTunesWithoutTheirBaseAreRecognised) {
  const Tunes tunes;
  const Outcome aligned = tunes.merge({"--method", "align:repair=none"});
  EXPECT_EQ(aligned.code, 0) << aligned.err;
  EXPECT_THAT(aligned.out, AllOf(HasSubstr("fine-tunes of one base"), HasSubstr("stays in its order")));
  const std::string average = tunes.folder + "/average.onnx";
  EXPECT_EQ(run_program({"merge", tunes.a, tunes.b, "-o", average, "--method", "average", "--no-check"}).code, 0);
  EXPECT_EQ(run_program({"verify", average, tunes.out, "--max-abs", "0"}).code, 0);
}

TEST(Merge, SaysWhenABaseIsNotTheirs) {
  const Tunes tunes;
  const std::string other = write_model(tunes.folder, "other.onnx", Tunes::text(0, 0, -1));
  EXPECT_THAT(tunes.merge({"--base", other, "--method", "ties"}).out, HasSubstr("is it what they were tuned from?"));
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
      {{files.a, files.b, "--weights=-1,1"}, "--weights: the weights sum to zero"},
      {{files.a, files.b, "--method", "ot", "--weights", "0,0"}, "method 'ot' divides by their sum"},
      {{files.a, files.b, "--pattern", "w1=1,-1"}, "pattern 'w1': the weights sum to zero"},
      {{files.a, files.b, "--method", "task-arithmetic:normalize=true", "--base", files.b, "--weights=1,-1"},
       "sum to zero"},
      {{files.a, files.b, "--method", "slerp", "--weights", "1,2"}, "slerp:t=0.7"},
      {{files.a, files.b, files.a, "--method", "slerp"}, "exactly two models, not 3"},
      {{files.a, files.b, "--method", "model-stock", "--base", files.b, "--weights", "1,2"}, "does not weigh models"},
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
    EXPECT_EQ(outcome.code, 2) << method;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("nan.onnx"), HasSubstr("'w1'"), HasSubstr("NaN"))) << method;
    EXPECT_THAT(files_in(files.folder), Not(testing::Contains("ab.onnx")));
  }
}

// A task vector may be taken away.
TEST(Merge, WeightsOfTaskVectorsMaySumToZero) {
  const Parents files;
  const Outcome merged = run_program(
      {"merge", files.a, files.b, "-o", files.out, "--method", "task-arithmetic", "--base", files.b, "--weights=1,-1"});
  EXPECT_EQ(merged.code, 0) << merged.err;
  EXPECT_EQ(run_program({"verify", files.a, files.out, "--max-rel-l2", "1e-6"}).code, 0);
}

TEST(Merge, BasesOfOtherShapesAreNamed) {
  const Parents files;
  const std::string wide = write_model(
      files.folder, "wide.onnx",
      "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N, 2] x) => (float[N, 2] y) <float[2, 4] w1 = {1, 2, 3, 4, "
      "5, 6, 7, 8}, float[4] b1 = {1, 2, 3, 4}, float[4, 2] w2 = {1, 2, 3, 4, 5, 6, 7, 8}> { h = MatMul(x, w1) a = "
      "Add(h, b1) r = Relu(a) y = MatMul(r, w2) }");
  const Outcome base =
      run_program({"merge", files.a, files.b, "-o", files.out, "--method", "ties", "--base", wide, "--no-check"});
  EXPECT_EQ(base.code, 2);
  EXPECT_THAT(base.err, AllOf(HasSubstr("wide.onnx is [2,4]"), HasSubstr("a base has the shapes")));
  const Outcome parent = run_program({"merge", wide, files.b, "-o", files.out, "--method", "average", "--no-check"});
  EXPECT_EQ(parent.code, 2);
  EXPECT_THAT(parent.err, AllOf(HasSubstr("wide.onnx is [2,4]"), HasSubstr("--method ot")));
  EXPECT_THAT(files_in(files.folder), Not(testing::Contains("ab.onnx")));
}

TEST(Merge, LabelsAndCalibrationThatDoNotFitAreNamed) {
  const Parents files;
  const std::string data = files.folder + "/data.npz";
  const Tensor x = Tensor::of<float>({3, 2}, {1, 2, 3, 4, 5, 6});
  const auto refused = [&](const std::map<std::string, Tensor>& arrays, const std::string& option) {
    EXPECT_TRUE(save_npz(data, arrays));
    const Outcome outcome = run_program({"merge", files.a, files.b, "-o", files.out, "--method", "ot", option, data});
    EXPECT_EQ(outcome.code, 2) << outcome.out;
    EXPECT_THAT(files_in(files.folder), Not(testing::Contains("ab.onnx")));
    return outcome.err;
  };
  EXPECT_THAT(refused({{"x", x}, {"labels", Tensor::of<std::int64_t>({2}, {0, 1})}}, "--data"),
              HasSubstr("'labels' has 2 entries for 3 samples"));
  EXPECT_THAT(refused({{"x", x}, {"labels", Tensor::of<std::int64_t>({3}, {0, 1, 7})}}, "--data"),
              HasSubstr("'labels' is 7 for sample 2: the model has 2 classes, 0 to 1"));
  EXPECT_THAT(refused({{"x", Tensor::of<std::int64_t>({1, 2}, {1, 2})}}, "--calibration"),
              AllOf(HasSubstr("data.npz"), HasSubstr("'x' needs float"), HasSubstr("int64")));
  EXPECT_THAT(refused({{"x", Tensor::of<float>({1, 3}, {1, 2, 3})}}, "--calibration"),
              AllOf(HasSubstr("data.npz"), HasSubstr("'x'")));
  EXPECT_THAT(refused({{"y", Tensor::of<float>({1, 3}, {1, 2, 3})}}, "--calibration"),
              AllOf(HasSubstr("no array for input 'x'"), HasSubstr("holds 'y'")));
}

}  // namespace
}  // namespace onnxfold::test::merge_test
