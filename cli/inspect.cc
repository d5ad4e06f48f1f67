#include "converter/inspect.h"

#include <iostream>

#include "cli/verbs.h"

namespace onnxfold::cli {

Result<int> run_inspect(const Words& words) {
  Arguments arguments("inspect MODEL.onnx [--json]",
                      "Shows what is in a model: sizes, inputs and outputs, operators, largest tensors, blocks.",
                      "inspect model.onnx");
  arguments.positional(1, 1, "the model to read");
  arguments.flag("json", "print JSON");
  add_common(arguments);
  OF_ASSIGN(const bool go_on, arguments.parse(words));
  if (!go_on) return kDone;
  OF_TRY(common_of(arguments));
  OF_ASSIGN(const Inspection inspection, inspect(arguments.words()[0]));
  std::cout << (arguments.has("json") ? inspection_json(inspection) : inspection_text(inspection));
  return kDone;
}

}  // namespace onnxfold::cli
