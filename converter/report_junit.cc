#include <fmt/format.h>

#include <algorithm>

#include "converter/markup.h"
#include "converter/report.h"

namespace onnxfold {
namespace {

std::string test_case(const std::string& name, const std::string& inside) {
  return fmt::format("    <testcase classname=\"onnxfold\" name=\"{}\">{}</testcase>\n", escape_markup(name), inside);
}

std::string failure(const std::string& message) {
  return fmt::format("<failure message=\"{}\"/>", escape_markup(message));
}

}  // namespace

std::string report_junit(const Report& report) {
  std::string cases;
  std::size_t count = 0, failures = 0, skipped = 0;
  if (report.proof) {
    for (const GateResult& gate : report.proof->gates) {
      ++count;
      failures += gate.passed ? 0 : 1;
      const std::string message =
          fmt::format("measured {:.6g}, limit {:.6g}; {}", gate.measured, gate.limit, gate.detail);
      cases += test_case(fmt::format("{} {}", gate.gate, gate.output), gate.passed ? "" : failure(message));
    }
    if (!report.proof->passed && failures == 0) {
      ++count;
      ++failures;
      cases += test_case("check", failure(report.proof->why));
    }
  } else {
    ++count;
    ++skipped;
    cases += test_case("check", fmt::format("<skipped message=\"{}\"/>", escape_markup(report.not_checked)));
  }
  return fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n"
      "  <testsuite name=\"onnxfold {} {}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3f}\">\n"
      "{}  </testsuite>\n</testsuites>\n",
      report.verb, escape_markup(report.target.path), count, failures, skipped, report.seconds, cases);
}

}  // namespace onnxfold
