// Runs the built program as a user does.
#pragma once

#include <string>
#include <vector>

namespace onnxfold::test {

struct Outcome {
  int code = -1;  // exit code
  std::string out, err;
};

Outcome run_program(const std::vector<std::string>& arguments);
// Writes the model of an ONNX text to folder/name and gives the path.
std::string write_model(const std::string& folder, const std::string& name, const std::string& text);
std::string read_file(const std::string& path);
// Names in a folder, hidden ones included, sorted.
std::vector<std::string> files_in(const std::string& folder);

// A model with an identity, and one with an operator nobody knows.
extern const char* const kSmallModel;
extern const char* const kUnknownOperatorModel;

}  // namespace onnxfold::test
