#include "exec/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "formats/onnx/schema.h"

namespace onnxfold {
namespace {

constexpr std::int64_t kAlwaysKept = 1 << 16;      // bytes: constants up to this size are kept in any case
constexpr std::int64_t kCacheLimit = 512LL << 20;  // bytes of larger constants kept between runs

Result<Tensor> constant_tensor(const Value& value) {
  if (value.constant() != nullptr) return *value.constant();
  if (value.initializer() != nullptr) return *value.initializer();
  if (value.sparse_initializer() != nullptr) return densified(*value.sparse_initializer());
  return fail(Code::kInternal, fmt::format("value \"{}\" is not a constant", value.name()));
}

// Errors of a kernel name their node; those of functions it calls may not.
tl::unexpected<Error> named(const Node& node, Error error) {
  if (error.message.rfind("node \"", 0) == 0) return fail(std::move(error));
  return fail(error.in(fmt::format("node \"{}\" ({})", node.label(), node.op_type())));
}

tl::unexpected<Error> out_of_memory(const Node& node) {
  return fail(Code::kResource,
              fmt::format("node \"{}\" ({}): not enough memory for its output", node.label(), node.op_type()));
}

void round_outputs(std::vector<Datum>& outputs) {
  for (Datum& output : outputs) {
    // Memory shared with an input holds values that were rounded when they were made.
    // The types of 8 bits and less are only made by Cast and QuantizeLinear, which round and saturate as told.
    const bool half =
        output.is_array() && (output.array.dtype() == DType::kFloat16 || output.array.dtype() == DType::kBFloat16);
    if (half && output.array.unique()) round_to_dtype(output.array);
  }
}

std::string type_key(const std::vector<Datum>& inputs) {
  std::string key;
  for (const Datum& input : inputs) key += to_string(type_of(input)) + ";";
  return key;
}

// A model with nothing but a copy of the node, its inputs typed as the data are.
Result<std::unique_ptr<Model>> typed_call(const Node& node, std::int64_t opset, const std::vector<Datum>& inputs) {
  if (!node.subgraphs().empty()) {
    return fail(Code::kUnsupported, "function bodies that hold subgraphs need typed inputs");
  }
  auto model = std::make_unique<Model>();
  model->opset_imports = node.graph()->opset_imports();
  model->opset_imports[node.domain()] = opset;
  NodeSpec spec;
  spec.op_type = node.op_type();
  spec.domain = node.domain();
  spec.name = node.name;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool present = inputs[i].present();
    spec.inputs.push_back(present ? model->graph().add_input(fmt::format("i{}", i), type_of(inputs[i])) : nullptr);
  }
  for (std::size_t i = 0; i < node.outputs().size(); ++i) {
    spec.outputs.push_back(OutputSpec{fmt::format("o{}", i), Type::none(), node.output(i) == nullptr});
  }
  for (const Attribute& attribute : node.attributes()) spec.attributes.push_back(attribute.copy());
  model->graph().insert(std::move(spec));
  return model;
}

}  // namespace

Result<Tensor> densified(const SparseTensor& sparse) {
  OF_ASSIGN(const std::vector<std::int64_t> indices, to_int64s(sparse.indices));
  OF_ASSIGN(const Bytes values, sparse.values.bytes());
  const int bits = bit_width(sparse.values.dtype());
  if (bits % 8 != 0 || bits == 0) return fail(Code::kUnsupported, "sparse tensors of this element type");
  const auto width = static_cast<std::size_t>(bits / 8);
  const std::int64_t count = sparse.values.size(), total = element_count(sparse.dims);
  const std::size_t rank = sparse.dims.size();
  const bool linear = sparse.indices.rank() == 1;
  if (indices.size() != static_cast<std::size_t>(count) * (linear ? 1 : rank)) {
    return fail(Code::kCorrupt, "sparse tensor with a wrong number of indices");
  }
  Buffer buffer(static_cast<std::size_t>(total) * width);
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t at = linear ? indices[static_cast<std::size_t>(i)] : 0;
    for (std::size_t axis = 0; axis < rank && !linear; ++axis) {
      const std::int64_t index = indices[static_cast<std::size_t>(i) * rank + axis];
      if (index < 0 || index >= sparse.dims[axis]) return fail(Code::kCorrupt, "sparse tensor index out of range");
      at = at * sparse.dims[axis] + index;
    }
    if (at < 0 || at >= total) return fail(Code::kCorrupt, "sparse tensor index out of range");
    std::copy_n(values.data() + static_cast<std::size_t>(i) * width, width,
                buffer.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(at) * width));
  }
  return Tensor::owned(sparse.values.dtype(), sparse.dims, std::move(buffer));
}

Type type_of(const Datum& datum) {
  switch (datum.kind) {
    case Datum::Kind::kArray:
      return Type::tensor(datum.array.dtype(), datum.array.dims());
    case Datum::Kind::kAbsent:
      return Type::none();
    default:
      break;
  }
  Type type;
  type.kind = datum.kind == Datum::Kind::kSequence ? Type::Kind::kSequence : Type::Kind::kOptional;
  type.inner.push_back(datum.items->empty() ? Type::none() : type_of(datum.items->front()));
  return type;
}

Result<Datum> ConstantCache::get(const Value& value) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = kept_.find(&value);
    if (found != kept_.end()) return found->second;
  }
  OF_ASSIGN(const Tensor tensor, constant_tensor(value));
  OF_ASSIGN(Array array, to_array(tensor, precision_));
  const std::int64_t bytes = array.size() * static_cast<std::int64_t>(storage_bytes(array.storage()));
  const std::lock_guard lock(mutex_);
  if (bytes <= kAlwaysKept || kept_bytes_ + bytes <= kCacheLimit) {
    if (kept_.emplace(&value, array).second && bytes > kAlwaysKept) kept_bytes_ += bytes;
  }
  return Datum(std::move(array));
}

Result<Datum> Runner::take(const GraphPlan& plan, Frame& frame, int slot) {
  if (slot < 0) return Datum();
  const auto at = static_cast<std::size_t>(slot);
  if (!frame[at].present() && plan.constants[at] != nullptr) {
    OF_ASSIGN(frame[at], constants_.get(*plan.constants[at]));
  }
  return frame[at];
}

Result<std::shared_ptr<const Expansion>> Runner::late_body(const Step& step, const std::vector<Datum>& inputs) {
  const std::lock_guard lock(step.late->mutex);
  std::shared_ptr<const Expansion>& known = step.late->by_types[type_key(inputs)];
  if (known != nullptr) return known;
  OF_ASSIGN(std::unique_ptr<Model> call, typed_call(*step.node, step.opset, inputs));
  const Node& typed = *call->graph().nodes().front();
  OF_ASSIGN(std::unique_ptr<Function> function, function_body(typed));
  if (function == nullptr) {
    return fail(Code::kUnsupported, fmt::format("no kernel for {}", operator_text(*step.node, step.opset)));
  }
  Planner planner(model_);
  OF_ASSIGN(std::unique_ptr<Expansion> made, planner.expand(*function, typed, step.depth));
  if (!planner.missing().empty()) {
    return fail(Code::kUnsupported, fmt::format("its function body needs {}", *planner.missing().begin()));
  }
  made->function = std::move(function);
  known = std::move(made);
  return known;
}

Result<std::vector<Datum>> Runner::call(const GraphPlan& plan, const Step& step, Frame& frame,
                                        std::vector<Datum> inputs) {
  if (step.body != nullptr) return run(*step.body->plan, std::move(inputs), {});
  if (step.late != nullptr) {
    OF_ASSIGN(const std::shared_ptr<const Expansion> body, late_body(step, inputs));
    return run(*body->plan, std::move(inputs), {});
  }
  if (step.kernel == nullptr) {
    return fail(Code::kUnsupported, fmt::format("no kernel for {}", operator_text(*step.node, step.opset)));
  }
  const SubgraphRunner run_subgraph = [&](const Graph& graph, std::vector<Datum> values) -> Result<std::vector<Datum>> {
    for (const SubgraphPlan& sub : step.subgraphs) {
      if (sub.graph != &graph) continue;
      std::vector<Datum> captured;
      for (const int slot : sub.captured) {
        OF_ASSIGN(Datum datum, take(plan, frame, slot));
        captured.push_back(std::move(datum));
      }
      return run(*sub.plan, std::move(values), std::move(captured));
    }
    return fail(Code::kInternal, "a kernel asked for a graph that is not an attribute of its node");
  };
  KernelContext context(*step.node, step.opset, precision_, std::move(inputs), run_subgraph);
  OF_TRY(step.kernel->run(context));
  std::vector<Datum> outputs = context.take_outputs();
  if (precision_ == Precision::kFloat32) round_outputs(outputs);
  return outputs;
}

Result<std::vector<Datum>> Runner::run_step(const GraphPlan& plan, const Step& step, Frame& frame) {
  std::vector<Datum> inputs;
  inputs.reserve(step.inputs.size());
  for (std::size_t i = 0; i < step.inputs.size(); ++i) {
    OF_ASSIGN(Datum datum, take(plan, frame, step.inputs[i]));
    if (step.last_read[i]) frame[static_cast<std::size_t>(step.inputs[i])] = Datum();
    inputs.push_back(std::move(datum));
  }
  try {
    Result<std::vector<Datum>> outputs = call(plan, step, frame, std::move(inputs));
    if (!outputs) return named(*step.node, std::move(outputs).error());
    return outputs;
  } catch (const std::bad_alloc&) {
    return out_of_memory(*step.node);
  } catch (const std::length_error&) {
    return out_of_memory(*step.node);
  }
}

Status Runner::step(const GraphPlan& plan, const Step& step, Frame& frame, const ValueSink& sink) {
  OF_ASSIGN(std::vector<Datum> outputs, run_step(plan, step, frame));
  for (std::size_t i = 0; i < step.outputs.size() && i < outputs.size(); ++i) {
    if (step.outputs[i] < 0) continue;
    if (sink) OF_TRY(sink(*step.node->output(i), outputs[i]));
    frame[static_cast<std::size_t>(step.outputs[i])] = std::move(outputs[i]);
  }
  for (const int slot : step.frees) frame[static_cast<std::size_t>(slot)] = Datum();
  return {};
}

Result<std::vector<Datum>> Runner::run(const GraphPlan& plan, std::vector<Datum> inputs, std::vector<Datum> captured,
                                       const ValueSink& sink) {
  if (inputs.size() > plan.inputs.size()) {
    return fail(Code::kInvalidArgument,
                fmt::format("a graph with {} inputs was given {}", plan.inputs.size(), inputs.size()));
  }
  Frame frame(plan.constants.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (plan.inputs[i] >= 0) frame[static_cast<std::size_t>(plan.inputs[i])] = std::move(inputs[i]);
  }
  for (std::size_t i = 0; i < captured.size(); ++i) {
    frame[static_cast<std::size_t>(plan.captures[i].second)] = std::move(captured[i]);
  }
  for (const Step& each : plan.steps) OF_TRY(step(plan, each, frame, sink));
  std::vector<Datum> results;
  for (const int slot : plan.outputs) {
    OF_ASSIGN(Datum datum, take(plan, frame, slot));
    results.push_back(std::move(datum));
  }
  return results;
}

}  // namespace onnxfold
