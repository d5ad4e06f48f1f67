// MatMul(x, W), Gemm(x, W, b) => MatMulInteger(DynamicQuantizeLinear(x), Wq) times both scales, plus b; Conv likewise
// with ConvInteger.
//
// Conditions: constant weight read as float32, of rank 2 for products (Transpose, Cast or Identity in between or not).
// Lossy, without data: each run measures the range of its activations. Weights in 8 bits with one scale a channel: int8
// for products, which ONNX Runtime fuses to DynamicQuantizeMatMul or MatMulIntegerToFloat; uint8 around 128 for
// convolutions, whose int8 kernel there is a slow one (a 3x3 of 64 channels: 26 ms against 2.1 ms, in float 1.4 ms).
// Embedding tables in int8 too (table_int8.h).
#include <fmt/format.h>

#include <map>
#include <tuple>

#include "ir/match.h"
#include "passes/quantize/channel_int8.h"
#include "passes/quantize/int8_target.h"
#include "passes/quantize/table_int8.h"
#include "passes/rewrite.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kDynamicOpset = 11;  // first with DynamicQuantizeLinear

class DynamicInt8 final : public Pass {
 public:
  DynamicInt8(Int8Options options, bool convolutions) : options_(std::move(options)), convolutions_(convolutions) {}

  Result<bool> run(Graph& graph, PassContext& context) override {
    bool any = false;
    int convolutions = 0;
    for (const Int8Target& target : find_int8_targets(graph, options_, context)) {
      const std::int64_t before = constant(target.weight)->nbytes();
      const std::string label = target.node->label();
      const bool convolution = target.node->is("Conv");
      if (convolution && !convolutions_) {
        context.skipped(label, "convolutions=false", before);
        continue;
      }
      if (graph.opset() < kDynamicOpset) {
        context.skipped(label, fmt::format("needs opset {}", kDynamicOpset), before);
        continue;
      }
      OF_TRY(convolution ? rewrite_convolution(graph, target) : rewrite(graph, target));
      convolutions += convolution ? 1 : 0;
      context.applied(label, "int8 weights by channel, activations rounded at run time", before,
                      before / 4 + 4 * target.channels);
      any = true;
    }
    if (convolutions > 0) {
      context.note("model",
                   fmt::format("warning: slow with ONNX Runtime, {} convolution{}: smaller, but slower than in "
                               "float; they are fast with qdq-int8",
                               convolutions, convolutions == 1 ? "" : "s"));
    }
    if (options_.tables) {
      OF_ASSIGN(const bool tables, quantize_tables(graph, options_, context));
      any = any || tables;
    }
    return any;
  }

 private:
  struct Rounded {
    Value *codes, *scale, *zero;
  };

  // The weight of `target` in 8 bits, stored where it stood, once for all nodes that read it alike.
  Result<Rounded> stored(const Int8Target& target) {
    Graph& home = *target.weight->graph();
    const bool convolution = target.node->is("Conv");
    const std::int64_t axis = convolution ? 0 : target.axis;
    const auto [found, is_new] = stored_.try_emplace({target.weight, axis, convolution});
    if (!is_new) return found->second;
    const Tensor& weight = *constant(target.weight);
    auto made = quantize_channels(weight, axis, options_.limit);
    if (!made) return fail(made.error().in(fmt::format("weight '{}'", target.weight->name())));
    Dims by_channel{target.channels};
    Tensor zero = Tensor::owned(DType::kInt8, {}, Buffer(1));
    if (convolution) {
      OF_ASSIGN(made->codes, around_128(made->codes));
      by_channel.resize(weight.dims().size() - 1, 1);
      zero = Tensor::of<std::uint8_t>({}, {std::uint8_t{128}});
    } else if (axis == 0) {
      OF_ASSIGN(made->codes, transposed_codes(made->codes));
    }
    const std::string name = target.weight->name();
    return found->second = {add_constant(home, made->codes, name + "_quantized"),
                            add_constant(home, Tensor::of<float>(by_channel, made->scales), name + "_scale"),
                            add_constant(home, std::move(zero), name + "_zero_point")};
  }

  Status rewrite(Graph& graph, const Int8Target& target) {
    Node& node = *target.node;
    OF_ASSIGN(const Rounded weight, stored(target));
    const Rounded x = rounded(graph, *node.input(0), node);
    const auto add = [&](const char* op, std::vector<Value*> inputs, Type type) {
      return graph.insert({op, std::move(inputs), {{node.output()->name(), std::move(type)}}, {}, "", ""}, &node);
    };
    Type sums = node.output()->type();
    if (sums.is_tensor()) sums.dtype = DType::kInt32;
    const Type floats = node.output()->type();
    Node* product = add("MatMulInteger", {x.codes, weight.codes, x.zero, weight.zero}, sums);
    NodeSpec cast{"Cast", {product->output()}, {{node.output()->name(), floats}}, {}, "", ""};
    cast.attributes.emplace_back("to", std::int64_t{1});  // TensorProto.FLOAT
    Node* numbers = graph.insert(std::move(cast), &node);
    Node* steps = add("Mul", {x.scale, weight.scale}, Type::tensor(DType::kFloat32, Dims{target.channels}));
    Node* last = add("Mul", {numbers->output(), steps->output()}, floats);
    if (node.is("Gemm") && node.input(2) != nullptr) last = add("Add", {last->output(), node.input(2)}, floats);
    last->name = node.name;
    Value* read = node.input(1);
    replace_and_erase(graph, node, *last->output());
    erase_weight(*read, *target.weight);
    return {};
  }

  Status rewrite_convolution(Graph& graph, const Int8Target& target) {
    Node& node = *target.node;
    OF_ASSIGN(const Rounded weight, stored(target));
    const Rounded x = rounded(graph, *node.input(0), node);
    const Dims by_channel = constant(weight.scale)->dims();
    const Type floats = node.output()->type();
    Type sums = floats;
    if (sums.is_tensor()) sums.dtype = DType::kInt32;
    const auto insert = [&](NodeSpec spec) { return graph.insert(std::move(spec), &node); };
    const auto spec_of = [&](const char* op, std::vector<Value*> inputs, const Type& type) {
      return NodeSpec{op, std::move(inputs), {{node.output()->name(), type}}, {}, "", ""};
    };
    NodeSpec integer = spec_of("ConvInteger", {x.codes, weight.codes, x.zero, weight.zero}, sums);
    for (const char* key : {"dilations", "kernel_shape", "pads", "strides"}) {
      if (auto numbers = node.attr_ints(key)) integer.attributes.emplace_back(key, *numbers);
    }
    if (node.attribute("group") != nullptr) integer.attributes.emplace_back("group", node.attr_int("group", 1));
    if (node.attribute("auto_pad") != nullptr) {
      integer.attributes.emplace_back("auto_pad", node.attr_string("auto_pad", "NOTSET"));
    }
    Node* product = insert(std::move(integer));
    NodeSpec cast = spec_of("Cast", {product->output()}, floats);
    cast.attributes.emplace_back("to", std::int64_t{1});  // TensorProto.FLOAT
    Node* numbers = insert(std::move(cast));
    Node* steps = insert(spec_of("Mul", {x.scale, weight.scale}, Type::tensor(DType::kFloat32, by_channel)));
    Node* last = insert(spec_of("Mul", {numbers->output(), steps->output()}, floats));
    if (Value* bias = node.input(2)) {
      Value* shape =
          add_constant(graph, Tensor::of<std::int64_t>({static_cast<std::int64_t>(by_channel.size())}, by_channel),
                       target.weight->name() + "_bias_shape");
      Value* wide =
          target.bias != nullptr
              ? add_constant(graph, constant(bias)->reshaped(by_channel), bias->name() + "_by_channel")
              : insert(spec_of("Reshape", {bias, shape}, Type::tensor(DType::kFloat32, by_channel)))->output();
      last = insert(spec_of("Add", {last->output(), wide}, floats));
      erase_if_unused(graph, *shape);
    }
    last->name = node.name;
    Value* read = node.input(1);
    replace_and_erase(graph, node, *last->output());
    erase_weight(*read, *target.weight);
    return {};
  }

  // What led to the weight, and the weight itself, which may be one of the graph around.
  static void erase_weight(Value& read, Value& weight) {
    if (!read.erased()) erase_if_unused(*read.graph(), read);
    if (!weight.erased()) erase_if_unused(*weight.graph(), weight);
  }

  // int8 as uint8 with the zero point 128.
  static Result<Tensor> around_128(const Tensor& codes) {
    OF_ASSIGN(const Bytes bytes, codes.bytes());
    Buffer out(bytes.span().begin(), bytes.span().end());
    for (std::byte& code : out) code ^= std::byte{0x80};
    return Tensor::owned(DType::kUint8, codes.dims(), std::move(out));
  }

  Rounded rounded(Graph& graph, Value& value, const Node& before) {
    const std::pair<const Graph*, const Value*> key{&graph, &value};  // what one body computes no other one sees
    const auto found = rounded_.find(key);
    if (found != rounded_.end() && graph.before(*found->second.codes->producer(), before)) return found->second;
    Type codes = value.type();
    if (codes.is_tensor()) codes.dtype = DType::kUint8;
    Node* node = graph.insert({"DynamicQuantizeLinear",
                               {&value},
                               {{value.name() + "_quantized", codes},
                                {value.name() + "_scale", Type::tensor(DType::kFloat32, Dims{})},
                                {value.name() + "_zero_point", Type::tensor(DType::kUint8, Dims{})}},
                               {},
                               "",
                               ""},
                              &before);
    return rounded_[key] = {node->output(0), node->output(1), node->output(2)};
  }

  Int8Options options_;
  bool convolutions_;
  std::map<std::pair<const Graph*, const Value*>, Rounded> rounded_;        // looked up only
  std::map<std::tuple<const Value*, std::int64_t, bool>, Rounded> stored_;  // looked up only
};

}  // namespace

std::unique_ptr<Pass> make_dynamic_int8(const PassOptions& options) {
  return std::make_unique<DynamicInt8>(int8_options(options), options.flag("convolutions"));
}

}  // namespace onnxfold
