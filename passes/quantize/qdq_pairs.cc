#include "passes/quantize/qdq_pairs.h"

#include <algorithm>
#include <cmath>

#include "ir/match.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

// Codes 0 to 255 inside the range, as float32 computes it; ONNX Runtime keeps a Clip that a code could pass.
Uint8Grid inside(Uint8Grid grid, const ClipRange& range) {
  const auto below = static_cast<float>(grid.zero), above = static_cast<float>(255 - grid.zero);
  const auto fits = [&](float scale) {
    return -static_cast<double>(scale * below) >= range.low && static_cast<double>(scale * above) <= range.high;
  };
  if (below > 0) grid.scale = static_cast<float>(std::min(static_cast<double>(grid.scale), -range.low / below));
  if (above > 0) grid.scale = static_cast<float>(std::min(static_cast<double>(grid.scale), range.high / above));
  while (grid.scale > 0 && !fits(grid.scale)) grid.scale = std::nextafter(grid.scale, 0.0F);
  return grid;
}

}  // namespace

Value* QdqPairs::read(Value& value, const Node& reader) {
  if (made_.contains(&value)) return &value;  // rounded where it was made
  if (const auto found = read_.find(&value); found != read_.end()) return found->second;
  Value* made = nullptr;
  if (constant(&value) != nullptr) {
    made = add_codes(value, reader);
  } else {
    const Scale scale = add_scale(value.name(), grids_.at(value.name()));
    made = add_pair(value, scale, value, scale, &reader);
  }
  read_[&value] = made;
  return made;
}

void QdqPairs::round_result(Value& value, const RoundedResult& result) {
  Value& end = *result.end;
  Uint8Grid seen = grids_.at(end.name());
  if (!result.affine()) {
    if (result.clip) seen = inside(seen, *result.clip);
    const Scale scale = add_scale(end.name(), seen);
    replace(end, scale, end, scale);
    return;
  }
  const RoundedGrids grids = *rounded_grids(result, seen);
  const Scale written = add_scale(value.name(), grids.written), read = add_scale(end.name(), grids.read);
  if (!replace(value, written, end, read)) return;
  for (auto node = result.nodes.rbegin(); node != result.nodes.rend(); ++node) erase_with_dead_inputs(graph_, **node);
}

void QdqPairs::round_result_as(Value& result, const Value& source) {
  const Scale scale = made_.at(&source);
  replace(result, scale, result, scale);
}

QdqPairs::Scale QdqPairs::add_scale(const std::string& name, const Uint8Grid& grid) {
  return {grid, add_constant(graph_, Tensor::scalar(grid.scale), name + "_scale"),
          add_constant(graph_, Tensor::of<std::uint8_t>({}, {grid.zero}), name + "_zero_point")};
}

Value* QdqPairs::add_pair(Value& value, const Scale& written, const Value& end, const Scale& read, const Node* before) {
  Type codes = value.type();
  codes.dtype = DType::kUint8;
  const std::string name = value.name();
  Node* quantize = graph_.insert(
      {"QuantizeLinear", {&value, written.scale, written.zero}, {{name + "_QuantizeLinear_Output", codes}}, {}, "", ""},
      before);
  Node* decode = graph_.insert({"DequantizeLinear",
                                {quantize->output(), read.scale, read.zero},
                                {{end.name() + "_DequantizeLinear_Output", end.type()}},
                                {},
                                "",
                                ""},
                               before);
  made_[decode->output()] = read;
  return decode->output();
}

// Constants of a flow are finite float32 (integer_flow.h), so reading them again cannot fail.
Value* QdqPairs::add_codes(Value& value, const Node& reader) {
  const Tensor tensor = *constant(&value);
  const std::vector<float> numbers = to_floats(tensor).value();
  double low = 0, high = 0;
  for (const float x : numbers) {
    low = std::min(low, static_cast<double>(x));
    high = std::max(high, static_cast<double>(x));
  }
  const Scale scale = add_scale(value.name(), uint8_grid({low, high}));
  std::vector<std::uint8_t> codes;
  for (const float x : numbers) {
    const float code = std::nearbyint(x / scale.grid.scale) + static_cast<float>(scale.grid.zero);
    codes.push_back(static_cast<std::uint8_t>(std::clamp(code, 0.0F, 255.0F)));
  }
  Value* stored = add_constant(graph_, Tensor::of<std::uint8_t>(tensor.dims(), codes), value.name() + "_quantized");
  Node* decode = graph_.insert({"DequantizeLinear",
                                {stored, scale.scale, scale.zero},
                                {{value.name() + "_DequantizeLinear_Output", value.type()}},
                                {},
                                "",
                                ""},
                               &reader);
  made_[decode->output()] = scale;
  return decode->output();
}

// False where the name of an output of the model forbids it.
bool QdqPairs::replace(Value& value, const Scale& written, Value& end, const Scale& read) {
  const auto nodes = graph_.nodes();
  const auto made = std::find(nodes.begin(), nodes.end(), value.producer());
  const Node* next = made != nodes.end() && std::next(made) != nodes.end() ? *std::next(made) : nullptr;
  Value* decoded = add_pair(value, written, end, read, next);
  Node* quantize = decoded->producer()->input(0)->producer();
  if (!graph_.can_replace(end, *decoded)) {
    made_.erase(decoded);
    graph_.erase(*decoded->producer());
    graph_.erase(*quantize);
    return false;
  }
  graph_.replace_all_uses(end, *decoded);
  graph_.set_input(*quantize, 0, &value);
  return true;
}

}  // namespace onnxfold
