#include "tests/support/paths.h"

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace onnxfold::test {
namespace {

struct TempDirs {
  std::vector<std::string> paths;
  ~TempDirs() {
    std::error_code ignored;
    for (const std::string& path : paths) std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

std::string source_path(const std::string& relative) { return std::string(ONNXFOLD_SOURCE_DIR) + "/" + relative; }

std::string binary_path() { return ONNXFOLD_BINARY; }

std::string data_path(const std::string& relative) {
  const char* root = std::getenv("ONNXFOLD_TEST_DATA");
  return root == nullptr ? std::string() : std::string(root) + "/" + relative;
}

std::string temp_dir() {
  static TempDirs dirs;
  std::string pattern = (std::filesystem::temp_directory_path() / "onnxfold-test-XXXXXX").string();
  dirs.paths.emplace_back(mkdtemp(pattern.data()));
  return dirs.paths.back();
}

}  // namespace onnxfold::test
