// Graph text in, graph text out: the harness of every pass test.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "ir/model.h"

namespace onnxfold::test {

using OptionMap = std::map<std::string, std::string>;

// ONNX text -> Model. Initializers written as `{}` are filled from a seed (normal floats; integers 0..7); nodes and
// edges may use quoted names. Fails the test on a parse error.
std::unique_ptr<Model> model_from_text(const std::string& text);

struct RewriteChecks {
  bool idempotent = true;  // a second run changes nothing
  bool equivalent = true;  // the executor agrees within the pass's declared exactness (float64 for exact and rounding)
  std::string reason;      // why a check is off
};

// Runs `pass` on `before`, verifies, and expects the graph of `after`: names of generated values and node names are
// ignored; operators, edges, attributes (schema defaults filled in), types, shapes AND values of constants are not.
void expect_rewrite(const std::string& pass, const std::string& before, const std::string& after,
                    const OptionMap& options = {}, const RewriteChecks& checks = {});
void expect_unchanged(const std::string& pass, const std::string& text, const OptionMap& options = {});
void expect_error(const std::string& pass, const std::string& text, const std::string& message_part,
                  const OptionMap& options = {});

}  // namespace onnxfold::test
