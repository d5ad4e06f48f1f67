// Graph text in, graph text out: the harness of every pass test.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "ir/model.h"
#include "passes/pass.h"

namespace onnxfold::test {

using OptionMap = std::map<std::string, std::string>;

// ONNX text -> Model with inferred shapes. Initializers written as `{}` are filled from a seed made of their name
// (normal floats; integers 0..7), so that the same name has the same values in two texts; nodes and edges may use
// quoted names. Fails the test on a parse error (and returns an empty model).
std::unique_ptr<Model> model_from_text(const std::string& text);

// Runs one pass over the main graph and every subgraph, once. Fails the test unless the model verifies afterwards and
// the changed flag tells the truth.
Result<bool> run_pass(const std::string& pass, Model& model, const OptionMap& options = {},
                      std::vector<Remark>* remarks = nullptr);

struct RewriteChecks {
  bool idempotent = true;  // a second run changes nothing
  bool equivalent = true;  // the executor agrees within the pass's declared exactness
  std::string reason;      // why a check is off
};

// Runs `pass` on `before`, verifies, and expects the graph of `after`: names of inner values and node names are
// ignored; operators, edges, attributes, public names, types, shapes AND values of constants are not. Equivalence: an
// exact pass must give the same numbers in float64; a rounding pass is proved within 1e-12 on the same text with every
// float made a double (weights that a pass computes are rounded to their own type, so float weights could not show more
// than 1e-7) and within 1e-5 as written.
void expect_rewrite(const std::string& pass, const std::string& before, const std::string& after,
                    const OptionMap& options = {}, const RewriteChecks& checks = {});
void expect_unchanged(const std::string& pass, const std::string& text, const OptionMap& options = {});
void expect_error(const std::string& pass, const std::string& text, const std::string& message_part,
                  const OptionMap& options = {});

}  // namespace onnxfold::test
