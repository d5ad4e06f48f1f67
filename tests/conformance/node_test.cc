// Runs every ONNX backend node test (scripts/dump_node_tests.py) in float32 and float64 mode. A case that fails must be
// listed in exceptions.txt, and a listed case must fail: the list never goes stale.
//
// While working on kernels:
//   ONNXFOLD_TEST_DATA=<folder that holds node/> ONNXFOLD_NODE_FILTER=resize,softmax build/.../conformance_tests
// runs the cases whose name contains one of the words; ONNXFOLD_NODE_LIST=1 also prints each failing case,
// tab-separated, as exceptions.txt would hold it.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>

#include "exec/broadcast.h"
#include "exec/dispatch.h"
#include "exec/executor.h"
#include "formats/onnx/onnx_file.h"
#include "tests/support/paths.h"

namespace onnxfold::node_test {
namespace {

namespace fs = std::filesystem;

struct Tolerance {
  double relative = 1e-3, absolute = 1e-7;
};

Status mismatch(std::string message) { return fail(Code::kGate, std::move(message)); }

template <typename T>
bool close(const T& actual, const T& expected, const Tolerance& tolerance) {
  if constexpr (std::is_same_v<T, std::string>) {
    return actual == expected;
  } else if constexpr (std::is_same_v<T, std::complex<float>> || std::is_same_v<T, std::complex<double>>) {
    return std::abs(actual - expected) <= tolerance.absolute + tolerance.relative * std::abs(expected);
  } else if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(expected) || std::isnan(actual)) return std::isnan(expected) && std::isnan(actual);
    if (std::isinf(expected) || std::isinf(actual)) return actual == expected;
    return std::abs(actual - expected) <= tolerance.absolute + tolerance.relative * std::abs(expected);
  } else {
    const double difference = std::abs(static_cast<double>(actual) - static_cast<double>(expected));
    return difference <= tolerance.absolute + tolerance.relative * std::abs(static_cast<double>(expected));
  }
}

template <typename T>
std::string text(const T& value) {
  if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
    return fmt::format("{}", value);
  } else {
    return fmt::format("({}, {})", value.real(), value.imag());
  }
}

Status compare(const Array& actual, const Array& expected, const Tolerance& tolerance) {
  if (actual.dtype() != expected.dtype() || actual.dims() != expected.dims()) {
    return mismatch(fmt::format("expected {}{}, got {}{}", name(expected.dtype()), dims_text(expected.dims()),
                                name(actual.dtype()), dims_text(actual.dims())));
  }
  if (actual.storage() != expected.storage()) return mismatch("wrong storage");
  Status status;
  visit_storage(expected.storage(), [&]<typename T>(Tag<T>) {
    for (std::int64_t i = 0; i < expected.size() && status; ++i) {
      const T &a = actual.data<T>()[i], &e = expected.data<T>()[i];
      if (close(a, e, tolerance)) continue;
      status = mismatch(fmt::format("element {}: expected {}, got {}", i, text(e), text(a)));
    }
  });
  return status;
}

Status compare(const Datum& actual, const Datum& expected, const Tolerance& tolerance, Precision precision) {
  if (actual.kind != expected.kind) return mismatch("wrong kind of value");
  if (expected.is_array()) {
    OF_ASSIGN(const Tensor tensor, to_tensor(actual.array));  // what a user gets: rounded to the element type
    OF_ASSIGN(const Array rounded, to_array(tensor, precision));
    if (actual.array.storage() != expected.array.storage()) return mismatch("wrong storage");
    return compare(rounded, expected.array, tolerance);
  }
  if (actual.items->size() != expected.items->size()) return mismatch("wrong number of items");
  for (std::size_t i = 0; i < expected.items->size(); ++i) {
    OF_TRY(compare((*actual.items)[i], (*expected.items)[i], tolerance, precision));
  }
  return {};
}

Result<Datum> load_value(const std::string& stem, Precision precision) {
  if (fs::exists(stem + ".pb")) {
    OF_ASSIGN(const Tensor tensor, load_tensor_pb(stem + ".pb"));
    OF_ASSIGN(Array array, to_array(tensor, precision));
    return Datum(std::move(array));
  }
  const bool optional = fs::exists(stem + ".optional");
  const std::string folder = stem + (optional ? ".optional" : ".sequence");
  if (!fs::exists(folder)) return Datum();
  std::vector<Datum> items;
  while (true) {
    OF_ASSIGN(Datum item, load_value(fmt::format("{}/{}", folder, items.size()), precision));
    if (!item.present()) break;
    items.push_back(std::move(item));
  }
  return optional ? Datum::optional(std::move(items)) : Datum::sequence(std::move(items));
}

Status run_set(const Executor& executor, const Graph& graph, const std::string& folder, const Tolerance& tolerance,
               Precision precision) {
  Feeds feeds;
  for (std::size_t i = 0; i < graph.inputs().size(); ++i) {
    OF_ASSIGN(Datum datum, load_value(fmt::format("{}/input_{}", folder, i), precision));
    if (datum.present()) feeds.emplace(graph.inputs()[i]->name(), std::move(datum));
  }
  OF_ASSIGN(const RunResult result, executor.run(feeds));
  for (std::size_t i = 0; i < result.outputs.size(); ++i) {
    OF_ASSIGN(const Datum expected, load_value(fmt::format("{}/output_{}", folder, i), precision));
    const Status same = compare(result.outputs[i], expected, tolerance, precision);
    if (!same) return fail(same.error().in(fmt::format("output {}", i)));
  }
  return {};
}

Status run_case(const std::string& folder, Precision precision) {
  Tolerance tolerance;
  std::ifstream(folder + "/case.txt") >> tolerance.relative >> tolerance.absolute;
  OF_ASSIGN(const std::unique_ptr<Model> model, load_model(folder + "/model.onnx"));
  ExecutorOptions options;
  options.precision = precision;
  OF_ASSIGN(const std::unique_ptr<Executor> executor, Executor::create(*model, options));
  int sets = 0;
  for (std::string set; fs::exists(set = fmt::format("{}/test_data_set_{}", folder, sets)); ++sets) {
    OF_TRY(run_set(*executor, model->graph(), set, tolerance, precision));
  }
  return sets > 0 ? Status() : mismatch("the case has no data");
}

// case name -> reason, for one mode.
std::map<std::string, std::string> exceptions(const std::string& mode) {
  std::map<std::string, std::string> listed;
  std::ifstream file(test::source_path("tests/conformance/exceptions.txt"));
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream fields(line);
    std::string name, which, reason;
    std::getline(fields, name, '\t');
    std::getline(fields, which, '\t');
    std::getline(fields, reason);
    EXPECT_FALSE(reason.empty()) << "exceptions.txt: no reason: " << line;
    if (which == mode || which == "both") listed[name] = reason;
  }
  return listed;
}

bool chosen(const std::string& name) {
  const char* filter = std::getenv("ONNXFOLD_NODE_FILTER");
  if (filter == nullptr) return true;
  std::istringstream words(filter);
  for (std::string word; std::getline(words, word, ',');) {
    if (name.find(word) != std::string::npos) return true;
  }
  return false;
}

std::vector<std::string> case_names(const std::string& root) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    if (chosen(entry.path().filename().string())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void run_all(const std::string& mode, Precision precision) {
  const std::string root = test::data_path("node");
  if (root.empty() || !fs::exists(root)) GTEST_SKIP() << "set ONNXFOLD_TEST_DATA to a folder that holds node/";
  const std::map<std::string, std::string> listed = exceptions(mode);
  const bool list = std::getenv("ONNXFOLD_NODE_LIST") != nullptr;
  int passed = 0;
  const std::vector<std::string> names = case_names(root);
  ASSERT_FALSE(names.empty());
  for (const std::string& name : names) {
    const Status status = run_case(root + "/" + name, precision);
    if (status) ++passed;
    if (status && listed.contains(name)) ADD_FAILURE() << name << " passes now: take it off exceptions.txt";
    if (!status && list) std::cout << name << '\t' << mode << '\t' << status.error().message << std::endl;
    if (!status && !listed.contains(name)) ADD_FAILURE() << name << ": " << status.error().message;
  }
  const auto total = static_cast<int>(names.size());
  std::cout << fmt::format("{}: {} of {} node cases pass ({:.1f} %)\n", mode, passed, total, 100.0 * passed / total);
}

TEST(OnnxNodeTests, Float32) { run_all("float32", Precision::kFloat32); }
TEST(OnnxNodeTests, Float64) { run_all("float64", Precision::kFloat64); }

}  // namespace
}  // namespace onnxfold::node_test
