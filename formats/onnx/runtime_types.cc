#include "formats/onnx/runtime_types.h"

#include <onnx/defs/shape_inference.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace onnxfold::onnx_proto {
namespace {

using Context = onnx::InferenceContext;
using Shape = onnx::TensorShapeProto;
using ShapeDim = Shape::Dimension;

const Shape* shape_of(Context& ctx, std::size_t input) {
  return onnx::hasInputShape(ctx, input) ? &onnx::getInputShape(ctx, input) : nullptr;
}

bool typed(Context& ctx, std::size_t input) { return input < ctx.getNumInputs() && ctx.getInputType(input) != nullptr; }

std::int64_t integer(Context& ctx, const char* name, std::int64_t fallback) {
  const onnx::AttributeProto* attribute = ctx.getAttribute(name);
  return attribute != nullptr && attribute->has_i() ? attribute->i() : fallback;
}

void set_element(Context& ctx, std::size_t input, std::size_t output) {
  if (output < ctx.getNumOutputs() && typed(ctx, input)) {
    onnx::propagateElemTypeFromInputToOutput(ctx, input, output);
  }
}

void set_shape(Context& ctx, std::size_t output, const Shape& shape) {
  if (output < ctx.getNumOutputs() && ctx.getOutputType(output)->has_tensor_type()) {
    onnx::updateOutputShape(ctx, output, shape);
  }
}

void like(Context& ctx, std::size_t input, std::size_t output) {
  set_element(ctx, input, output);
  if (const Shape* shape = shape_of(ctx, input)) set_shape(ctx, output, *shape);
}

ShapeDim dim_of(std::int64_t value) {
  ShapeDim dim;
  dim.set_dim_value(value);
  return dim;
}

ShapeDim times(const ShapeDim& dim, std::int64_t factor, std::int64_t divisor = 1) {
  return dim.has_dim_value() ? dim_of(dim.dim_value() * factor / divisor) : ShapeDim();
}

Shape with_last(Shape shape, const ShapeDim& last) {
  *shape.mutable_dim(shape.dim_size() - 1) = last;
  return shape;
}

void like_first(Context& ctx) { like(ctx, 0, 0); }

// Normalized, mean, inverse deviation (both left alone) and the sum of the two inputs.
void skip_norm(Context& ctx) {
  like(ctx, 0, 0);
  like(ctx, 0, 3);
}

// ids [B, S] and a table [V, H] -> [B, S, H].
void embed_norm(Context& ctx) {
  set_element(ctx, 2, 0);
  const Shape *ids = shape_of(ctx, 0), *table = shape_of(ctx, 2);
  if (ids == nullptr || table == nullptr || ids->dim_size() != 2 || table->dim_size() != 2) return;
  Shape shape = *ids;
  *shape.add_dim() = table->dim(1);
  set_shape(ctx, 0, shape);
}

void nbits_product(Context& ctx) {
  set_element(ctx, 0, 0);
  const Shape* in = shape_of(ctx, 0);
  const std::int64_t n = integer(ctx, "N", 0);
  if (in != nullptr && in->dim_size() > 0 && n > 0) set_shape(ctx, 0, with_last(*in, dim_of(n)));
}

// x [.., K] and weight [K, N] in integers: [.., N], floating as scale `scale_input`.
void integer_product(Context& ctx, std::size_t scale_input) {
  set_element(ctx, scale_input, 0);
  const Shape *in = shape_of(ctx, 0), *weight = shape_of(ctx, 1);
  if (in == nullptr || weight == nullptr || in->dim_size() == 0 || weight->dim_size() != 2) return;
  set_shape(ctx, 0, with_last(*in, weight->dim(1)));
}

// Rows of a table of packed codes: the indices take the place of gather_axis.
void gather_quantized(Context& ctx) {
  set_element(ctx, 2, 0);
  const Shape *data = shape_of(ctx, 0), *indices = shape_of(ctx, 1);
  if (data == nullptr || indices == nullptr || integer(ctx, "gather_axis", 0) != 0 || data->dim_size() < 1) return;
  const bool bytes = ctx.getInputType(0)->tensor_type().elem_type() == onnx::TensorProto::UINT8;
  Shape shape = *indices;
  for (int i = 1; i < data->dim_size(); ++i) {
    const bool packed = bytes && i + 1 == data->dim_size();
    *shape.add_dim() = packed ? times(data->dim(i), 8, integer(ctx, "bits", 4)) : data->dim(i);
  }
  set_shape(ctx, 0, shape);
}

// Caches have the type of the past ones when given, else of the query.
void set_caches(Context& ctx, std::size_t past_key) {
  for (std::size_t i = 0; i < 2; ++i) set_element(ctx, typed(ctx, past_key + i) ? past_key + i : 0, 1 + i);
}

// query [B, S, H], value [B, T, Hv] -> [B, S, Hv]; packed [B, S, heads, 3, d] -> [B, S, heads d].
void multi_head_attention(Context& ctx) {
  set_element(ctx, 0, 0);
  set_caches(ctx, 6);
  const Shape *query = shape_of(ctx, 0), *value = shape_of(ctx, 2);
  if (query == nullptr) return;
  const std::int64_t heads = integer(ctx, "num_heads", 0);
  if (query->dim_size() == 3) {
    if (value != nullptr && value->dim_size() == 3) return set_shape(ctx, 0, with_last(*query, value->dim(2)));
    if (value != nullptr && value->dim_size() == 4) {
      return set_shape(ctx, 0, with_last(*query, times(value->dim(3), heads)));
    }
    if (typed(ctx, 1)) return;  // key and value in one
    return set_shape(ctx, 0, *query);
  }
  if (query->dim_size() != 5) return;
  Shape shape;
  for (int i = 0; i < 2; ++i) *shape.add_dim() = query->dim(i);
  *shape.add_dim() = times(query->dim(4), heads);
  set_shape(ctx, 0, shape);
}

// query [B, S, heads d] -> the same; packed [B, S, (heads + 2 kv_heads) d] -> [B, S, heads d].
void grouped_attention(Context& ctx) {
  set_element(ctx, 0, 0);
  set_caches(ctx, 3);
  const Shape* query = shape_of(ctx, 0);
  const std::int64_t heads = integer(ctx, "num_heads", 0), kv = integer(ctx, "kv_num_heads", 0);
  if (query == nullptr || query->dim_size() != 3 || heads <= 0) return;
  const bool packed = !typed(ctx, 1);
  set_shape(ctx, 0, packed ? with_last(*query, times(query->dim(2), heads, heads + 2 * kv)) : *query);
}

// x [B, S, I] and projections [I, Hq + Hk + Hv] -> [B, S, Hv].
void packed_attention(Context& ctx) {
  set_element(ctx, 0, 0);
  set_element(ctx, typed(ctx, 4) ? 4 : 0, 1);
  const Shape *in = shape_of(ctx, 0), *weight = shape_of(ctx, 1);
  if (in == nullptr || weight == nullptr || in->dim_size() != 3 || weight->dim_size() != 2) return;
  const onnx::AttributeProto* sizes = ctx.getAttribute("qkv_hidden_sizes");
  const bool given = sizes != nullptr && sizes->ints_size() == 3;
  set_shape(ctx, 0, with_last(*in, given ? dim_of(sizes->ints(2)) : times(weight->dim(1), 1, 3)));
}

void swapped_product(Context& ctx) {
  if (integer(ctx, "transA", 0) + integer(ctx, "transB", 0) + integer(ctx, "transBatchA", 0) +
          integer(ctx, "transBatchB", 0) ==
      0) {
    onnx::OpSchemaRegistry::Schema("MatMul", 13, "")->GetTypeAndShapeInferenceFunction()(ctx);
    return;
  }
  set_element(ctx, 0, 0);
  const Shape *a = shape_of(ctx, 0), *b = shape_of(ctx, 1);
  const bool batches = integer(ctx, "transBatchA", 0) + integer(ctx, "transBatchB", 0) != 0;
  if (batches || a == nullptr || b == nullptr || a->dim_size() < 2 || b->dim_size() != 2) return;
  Shape shape = *a;
  if (integer(ctx, "transA", 0) != 0) *shape.mutable_dim(a->dim_size() - 2) = a->dim(a->dim_size() - 1);
  set_shape(ctx, 0, with_last(shape, b->dim(integer(ctx, "transB", 0) != 0 ? 0 : 1)));
}

// The rule of a standard operator that takes the same inputs first.
onnx::InferenceFunction as_standard(const char* op_type, int opset) {
  return [=](Context& ctx) {
    onnx::OpSchemaRegistry::Schema(op_type, opset, "")->GetTypeAndShapeInferenceFunction()(ctx);
  };
}

void dequantized(Context& ctx) {
  set_element(ctx, 1, 0);
  if (const Shape* shape = shape_of(ctx, 0)) set_shape(ctx, 0, *shape);
}

void quantized(Context& ctx) {
  if (typed(ctx, 2)) {
    set_element(ctx, 2, 0);
  } else {
    onnx::updateOutputElemType(ctx, 0, onnx::TensorProto::UINT8);
  }
  if (const Shape* shape = shape_of(ctx, 0)) set_shape(ctx, 0, *shape);
}

void broadcast(Context& ctx, std::size_t a, std::size_t b) {
  set_element(ctx, a, 0);
  const Shape *left = shape_of(ctx, a), *right = shape_of(ctx, b);
  if (left == nullptr || right == nullptr || ctx.getNumOutputs() == 0) return;
  Shape shape;
  onnx::bidirectionalBroadcastShapeInference(*left, *right, shape);
  set_shape(ctx, 0, shape);
}

// Parts from input 2 on, each with scale and zero point behind.
void quantized_join(Context& ctx) {
  set_element(ctx, 2, 0);
  const Shape* first = shape_of(ctx, 2);
  if (first == nullptr) return;
  Shape shape = *first;
  std::int64_t axis = integer(ctx, "axis", 0);
  if (axis < 0) axis += shape.dim_size();
  if (axis < 0 || axis >= shape.dim_size()) return;
  std::int64_t total = 0;
  bool known = true;
  for (std::size_t i = 2; i < ctx.getNumInputs(); i += 3) {
    const Shape* part = shape_of(ctx, i);
    known = known && part != nullptr && axis < part->dim_size() && part->dim(static_cast<int>(axis)).has_dim_value();
    if (known) total += part->dim(static_cast<int>(axis)).dim_value();
  }
  *shape.mutable_dim(static_cast<int>(axis)) = known ? dim_of(total) : ShapeDim();
  set_shape(ctx, 0, shape);
}

void quantized_pool(Context& ctx) {
  set_element(ctx, 0, 0);
  if (integer(ctx, "channels_last", 0) == 0) onnx::convPoolShapeInference(ctx, false, true, 0, 1);
}

void quantized_average(Context& ctx) {
  set_element(ctx, 0, 0);
  const Shape* in = shape_of(ctx, 0);
  if (in == nullptr || in->dim_size() < 3) return;
  Shape shape = *in;
  const bool last = integer(ctx, "channels_last", 0) != 0;
  for (int i = last ? 1 : 2; i < shape.dim_size() - (last ? 1 : 0); ++i) *shape.mutable_dim(i) = dim_of(1);
  set_shape(ctx, 0, shape);
}

// Codes where an output scale is given, else floats.
void quantized_gemm(Context& ctx) {
  set_element(ctx, typed(ctx, 7) ? 0 : 1, 0);
  const Shape *a = shape_of(ctx, 0), *b = shape_of(ctx, 3);
  if (a == nullptr || b == nullptr || a->dim_size() != 2 || b->dim_size() != 2) return;
  Shape shape;
  *shape.add_dim() = a->dim(integer(ctx, "transA", 0) != 0 ? 1 : 0);
  *shape.add_dim() = b->dim(integer(ctx, "transB", 0) != 0 ? 0 : 1);
  set_shape(ctx, 0, shape);
}

// X [length, batch, inputs] -> Y [length, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden].
void quantized_lstm(Context& ctx) {
  for (std::size_t i = 0; i < 3; ++i) set_element(ctx, 0, i);
  const Shape* in = shape_of(ctx, 0);
  const std::int64_t hidden = integer(ctx, "hidden_size", 0);
  if (in == nullptr || in->dim_size() != 3 || hidden <= 0) return;
  const onnx::AttributeProto* direction = ctx.getAttribute("direction");
  const std::int64_t directions = direction != nullptr && direction->s() == "bidirectional" ? 2 : 1;
  Shape state;
  *state.add_dim() = dim_of(directions);
  *state.add_dim() = in->dim(1);
  *state.add_dim() = dim_of(hidden);
  Shape all;
  *all.add_dim() = in->dim(0);
  for (int i = 0; i < 3; ++i) *all.add_dim() = state.dim(i);
  set_shape(ctx, 0, all);
  set_shape(ctx, 1, state);
  set_shape(ctx, 2, state);
}

std::map<std::string, onnx::InferenceFunction> rules() {
  std::map<std::string, onnx::InferenceFunction> made = {
      {"SkipLayerNormalization", skip_norm},
      {"SkipSimplifiedLayerNormalization", skip_norm},
      {"EmbedLayerNormalization", embed_norm},
      {"MatMulNBits", nbits_product},
      {"MatMulBnb4", nbits_product},
      {"GatherBlockQuantized", gather_quantized},
      {"MultiHeadAttention", multi_head_attention},
      {"DecoderMaskedMultiHeadAttention", multi_head_attention},
      {"GroupQueryAttention", grouped_attention},
      {"Attention", packed_attention},
      {"FusedMatMul", swapped_product},
      {"TransposeMatMul", swapped_product},
      {"FusedGemm", as_standard("Gemm", 13)},
      {"FusedConv", as_standard("Conv", 11)},
      {"DynamicQuantizeMatMul", [](Context& ctx) { integer_product(ctx, 0); }},
      {"MatMulIntegerToFloat", [](Context& ctx) { integer_product(ctx, 2); }},
      {"DynamicQuantizeLSTM", quantized_lstm},
      {"QGemm", quantized_gemm},
      {"QLinearAdd", [](Context& ctx) { broadcast(ctx, 0, 3); }},
      {"QLinearMul", [](Context& ctx) { broadcast(ctx, 0, 3); }},
      {"QLinearAveragePool", quantized_pool},
      {"QLinearConcat", quantized_join},
      {"QLinearGlobalAveragePool", quantized_average},
      {"QLinearLeakyRelu", like_first},
      {"QLinearSigmoid", like_first},
      {"DequantizeLinear", dequantized},
      {"QuantizeLinear", quantized},
  };
  for (const char* op_type :
       {"BiasAdd", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GroupNorm", "Inverse", "MoE", "QMoE", "QuickGelu",
        "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipGroupNorm"}) {
    made.emplace(op_type, like_first);
  }
  return made;
}

class WithRuntime final : public onnx::ISchemaRegistry {
 public:
  WithRuntime() {
    for (auto& [op_type, rule] : rules()) {
      onnx::OpSchema& schema = schemas_[op_type];
      schema.SetName(op_type).SetDomain("com.microsoft").SinceVersion(1);
      schema.Input(0, "inputs", "", "T", onnx::OpSchema::Variadic, false, 0);
      schema.Output(0, "outputs", "", "T", onnx::OpSchema::Variadic, false, 0);
      schema.TypeConstraint("T", onnx::OpSchema::all_tensor_types_ir13(), "");
      schema.AllowUncheckedAttributes().TypeAndShapeInferenceFunction(std::move(rule));
      schema.Finalize();
    }
  }
  const onnx::OpSchema* GetSchema(const std::string& key, int version, const std::string& domain) const override {
    const bool runtime = domain == "com.microsoft" || (domain.empty() && key == "SimplifiedLayerNormalization");
    if (!runtime) return onnx::OpSchemaRegistry::Schema(key, version, domain);
    const auto found = schemas_.find(key);
    return found == schemas_.end() ? nullptr : &found->second;
  }

 private:
  std::map<std::string, onnx::OpSchema> schemas_;
};

}  // namespace

const onnx::ISchemaRegistry& schemas_with_runtime() {
  static const WithRuntime kSchemas;
  return kSchemas;
}

}  // namespace onnxfold::onnx_proto
