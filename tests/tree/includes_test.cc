// Every include points down: cli > converter > passes > analysis > exec > formats > ir.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "tests/support/paths.h"

namespace onnxfold::includes_test {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, int> kFloors = {{"ir", 0},     {"formats", 1},   {"exec", 2}, {"analysis", 3},
                                            {"passes", 4}, {"converter", 5}, {"cli", 6}};

struct Include {
  std::string file;    // relative to the repository
  std::string target;  // as written
  bool quoted = false;
};

std::vector<Include> includes_of_tree() {
  static const std::regex kInclude(R"re(^\s*#\s*include\s*(["<])([^">]+)[">].*)re");
  std::vector<Include> found;
  const fs::path root = test::source_path("");
  for (const auto& [floor, level] : kFloors) {
    for (const auto& entry : fs::recursive_directory_iterator(root / floor)) {
      if (entry.path().extension() != ".cc" && entry.path().extension() != ".h") continue;
      std::ifstream file(entry.path());
      std::smatch match;
      for (std::string line; std::getline(file, line);) {
        if (!std::regex_match(line, match, kInclude)) continue;
        found.push_back({fs::relative(entry.path(), root).string(), match[2], match[1] == "\""});
      }
    }
  }
  return found;
}

std::string first_folder(const std::string& path) { return path.substr(0, path.find('/')); }

// passes/<family>/x.cc -> <family>; empty for files directly in passes/.
std::string pass_family(const std::string& path) {
  const fs::path parts(path);
  auto part = parts.begin();
  if (part == parts.end() || *part != "passes") return {};
  ++part;
  return std::next(part) == parts.end() ? std::string() : part->string();
}

TEST(Includes, PointDownTheFloors) {
  std::size_t checked = 0;
  for (const Include& include : includes_of_tree()) {
    const auto target = kFloors.find(first_folder(include.target));
    if (!include.quoted || target == kFloors.end()) continue;
    ++checked;
    EXPECT_LE(target->second, kFloors.at(first_folder(include.file)))
        << include.file << " includes " << include.target << ", a floor above";
  }
  EXPECT_GT(checked, 100U);
}

TEST(Includes, PassFamiliesDoNotKnowEachOther) {
  for (const Include& include : includes_of_tree()) {
    const std::string from = pass_family(include.file);
    const std::string to = pass_family(include.target);
    if (from.empty() || to.empty()) continue;
    EXPECT_EQ(from, to) << include.file << " includes " << include.target;
  }
}

TEST(Includes, OnlyFormatsOnnxSeesProtobuf) {
  const std::regex protobuf("^(onnx/|google/protobuf/).*");
  for (const Include& include : includes_of_tree()) {
    if (!std::regex_match(include.target, protobuf)) continue;
    EXPECT_EQ(include.file.rfind("formats/onnx/", 0), 0U) << include.file << " includes " << include.target;
  }
}

TEST(Includes, ProductCodeNeverReachesIntoTests) {
  for (const Include& include : includes_of_tree()) EXPECT_NE(first_folder(include.target), "tests") << include.file;
}

// Nothing below cli/ prints or exits.
TEST(Sources, NothingBelowTheCommandLinePrints) {
  const std::regex output(R"re(.*\b(std::cout|std::cerr|printf|fprintf|std::exit|exit|abort)\s*(<<|\().*)re");
  const fs::path root = test::source_path("");
  for (const auto& [floor, level] : kFloors) {
    if (floor == "cli") continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / floor)) {
      if (entry.path().extension() != ".cc" && entry.path().extension() != ".h") continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        EXPECT_FALSE(std::regex_match(line, output)) << entry.path() << ": " << line;
      }
    }
  }
}

// Cold builds compile several tests as one source (cmake/onnxfold.cmake): their names must not meet.
TEST(Sources, EveryTestHasANamespaceOfItsOwn) {
  const std::regex opening(R"re(namespace onnxfold(::test)?::(\w+) \{)re");
  const fs::path root = fs::path(test::source_path("")) / "tests";
  std::map<std::string, fs::path> seen;  // floor and namespace
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (!entry.path().string().ends_with("_test.cc") || entry.path().parent_path().filename() == "support") continue;
    std::ifstream file(entry.path());
    std::smatch match;
    std::string line;
    while (std::getline(file, line) && !std::regex_match(line, match, opening)) continue;
    ASSERT_TRUE(file) << entry.path() << " opens no namespace onnxfold::" << entry.path().stem().string();
    EXPECT_EQ(match[2].str(), entry.path().stem().string()) << entry.path();
    const std::string floor = first_folder(fs::relative(entry.path(), root).string());
    EXPECT_TRUE(seen.emplace(floor + "/" + match[2].str(), entry.path()).second) << entry.path() << " is a second one";
  }
  EXPECT_GT(seen.size(), 100U);
}

}  // namespace
}  // namespace onnxfold::includes_test
