// Where tests find the repository, the built program and the data that set-up made.
#pragma once

#include <string>

namespace onnxfold::test {

std::string source_path(const std::string& relative);  // inside the repository
std::string binary_path();                             // the onnxfold program of this build
// $ONNXFOLD_TEST_DATA/relative, where scripts/test.sh put generated data; empty when the variable is not set.
std::string data_path(const std::string& relative);
// A fresh empty directory, removed when the test process ends.
std::string temp_dir();

}  // namespace onnxfold::test
