#include "tests/cli/program.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/onnx/onnx_file.h"
#include "tests/support/paths.h"
#include "tests/support/rewrite_test.h"

namespace onnxfold::test {
namespace {

std::string quoted(const std::string& word) {
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

}  // namespace

const char* const kSmallModel = R"(
  <ir_version: 10, opset_import: ["" : 21]>
  agraph (float[N,3] x) => (float[N,2] y)
  <float[3,2] w = {1, 2, 3, 4, 5, 6}>
  {
    a = Identity(x)
    y = MatMul(a, w)
  })";

const char* const kUnknownOperatorModel = R"(
  <ir_version: 10, opset_import: ["" : 21, "com.example" : 1]>
  agraph (float[2] x) => (float[2] y) {
    a = Identity(x)
    y = com.example.Frobnicate(a)
  })";

Outcome run_program(const std::vector<std::string>& arguments) {
  static const std::string kFolder = temp_dir();
  std::string command = quoted(binary_path());
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  command += " >" + kFolder + "/out 2>" + kFolder + "/err </dev/null";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(kFolder + "/out"), read_file(kFolder + "/err")};
}

std::string write_model(const std::string& folder, const std::string& name, const std::string& text) {
  const std::string path = folder + "/" + name;
  const auto model = parse_model_text(text);
  if (!model) {
    ADD_FAILURE() << model.error().message;
    return path;
  }
  const auto saved = save_model(**model, path);
  EXPECT_TRUE(saved) << saved.error().message;
  return path;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace onnxfold::test
