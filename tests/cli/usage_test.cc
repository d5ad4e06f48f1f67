#include <gmock/gmock.h>

#include "tests/cli/program.h"
#include "tests/support/paths.h"

namespace onnxfold::test::usage_test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

void expect_usage_error(const std::vector<std::string>& arguments, const std::string& part) {
  const Outcome outcome = run_program(arguments);
  EXPECT_EQ(outcome.code, 2) << outcome.err;
  EXPECT_THAT(outcome.err, StartsWith("onnxfold: error: "));
  EXPECT_THAT(outcome.err, HasSubstr(part));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_EQ(outcome.out, "");
}

TEST(Usage, EveryVerbHasHelpWithAnExample) {
  for (const char* verb : {"compress", "verify", "run", "analyze", "inspect", "convert", "pack", "unpack", "passes"}) {
    const Outcome outcome = run_program({verb, "--help"});
    EXPECT_EQ(outcome.code, 0) << verb;
    EXPECT_THAT(outcome.out, HasSubstr(std::string("Example:\n  onnxfold ") + verb));
    EXPECT_EQ(outcome.err, "");
  }
  EXPECT_THAT(run_program({"--help"}).out, HasSubstr("compress"));
  EXPECT_THAT(run_program({"--version"}).out, StartsWith("onnxfold "));
}

TEST(Usage, MisspeltWordsGetTheNearest) {
  expect_usage_error({"compres"}, "did you mean 'compress'?");
  expect_usage_error({"compress", "m.onnx", "--recip", "clean"}, "did you mean '--recipe'?");
  expect_usage_error({"compress", "m.onnx", "-o", "o.onnx", "--recipe", "cleen"}, "did you mean 'clean'?");
  expect_usage_error({"compress", "m.onnx", "-o", "o.onnx", "--pass", "remove-identiy"},
                     "did you mean 'remove-identity'?");
  expect_usage_error({"passes", "remove-identiy"}, "did you mean 'remove-identity'?");
}

TEST(Usage, MissingAndWrongValues) {
  expect_usage_error({}, "missing a verb");
  expect_usage_error({"compress"}, "missing the model to read");
  expect_usage_error({"compress", "m.onnx", "--recipe", "clean"}, "missing -o");
  expect_usage_error({"compress", "m.onnx", "-o", "o.onnx"}, "clean|depth25|depth25-int4|fuse");
  expect_usage_error({"compress", "m.onnx", "-o", "o.onnx", "--recipe", "clean", "--report", "r.pdf"}, "r.pdf");
  expect_usage_error({"compress", "m.onnx", "-o", "o.onnx", "--recipe", "clean", "--max-abs", "x"}, "--max-abs: 'x'");
  expect_usage_error({"compress", "m.onnx", "-o", "o.onnx", "--recipe", "clean", "--memory", "2Q"}, "--memory: '2Q'");
  expect_usage_error({"inspect", "m.onnx", "--threads", "0"}, "--threads: '0'");
  expect_usage_error({"inspect", "m.onnx", "n.onnx"}, "unexpected 'n.onnx'");
  expect_usage_error({"verify", "m.onnx"}, "missing the two models");
}

TEST(Usage, PassesAreListedAndExplained) {
  EXPECT_THAT(run_program({"passes"}).out, HasSubstr("remove-identity"));
  EXPECT_THAT(run_program({"passes", "fold-constants"}).out, HasSubstr("max-growth"));
  EXPECT_THAT(run_program({"passes", "--recipe", "clean"}).out, StartsWith("name: clean\n"));
  EXPECT_THAT(run_program({"passes", "--markdown"}).out, HasSubstr("| `remove-identity` | cleanup | exact |"));
}

}  // namespace
}  // namespace onnxfold::test::usage_test
