#include "converter/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "converter/report.h"

namespace onnxfold {
namespace {

constexpr std::size_t kLargest = 10;

// The operand that weight-only quantization would store in blocks, or null.
const Value* quantizable_weight(const Node& node) {
  const Value* weight = nullptr;
  if (node.is("MatMul") || node.is("Gemm")) weight = node.input(1);
  if (node.is("Gather")) weight = node.input(0);
  const Tensor* tensor = weight != nullptr ? weight->constant() : nullptr;
  return tensor != nullptr && tensor->rank() >= 2 && is_float(tensor->dtype()) ? weight : nullptr;
}

void count_nodes(const Graph& graph, Inspection& result, std::set<const Value*>& counted) {
  for (const Node* node : graph.nodes()) {
    ++result.nodes;
    ++result.operators[node->domain().empty() ? node->op_type() : node->domain() + "." + node->op_type()];
    const Value* weight = quantizable_weight(*node);
    if (weight == nullptr || !counted.insert(weight).second) continue;
    auto& [count, bytes] = result.quantizable[node->op_type()];
    ++count;
    bytes += weight->constant()->nbytes();
  }
}

void count_tensors(const Graph& graph, Inspection& result) {
  for (const Value* value : graph.values()) {
    const Tensor* tensor = value->initializer() != nullptr ? value->initializer() : value->constant();
    if (tensor == nullptr) continue;
    result.parameters += tensor->size();
    result.weight_bytes += tensor->nbytes();
    result.bytes_by_type[std::string(name(tensor->dtype()))] += tensor->nbytes();
    result.largest.push_back(
        {value->name(), to_string(Type::tensor(tensor->dtype(), tensor->dims())), tensor->nbytes()});
  }
}

std::string count_text(std::int64_t count) {
  return count < 1000      ? fmt::format("{}", count)
         : count < 1000000 ? fmt::format("{:.1f} thousand", static_cast<double>(count) / 1e3)
                           : fmt::format("{:.1f} million", static_cast<double>(count) / 1e6);
}

using Json = nlohmann::ordered_json;

Json sublayer_json(const InspectedSublayer& sublayer) {
  Json json = {{"kind", sublayer.kind}};
  if (sublayer.heads > 0) {
    json.update({{"heads", sublayer.heads},
                 {"kv_heads", sublayer.kv_heads},
                 {"head_width", sublayer.head_width},
                 {"rotary", sublayer.rotary},
                 {"causal", sublayer.causal}});
  }
  if (sublayer.hidden > 0) json["hidden"] = sublayer.hidden;
  if (sublayer.experts > 0) json.update({{"experts", sublayer.experts}, {"chosen", sublayer.chosen}});
  if (sublayer.shared_experts > 0) {
    json.update({{"shared_experts", sublayer.shared_experts}, {"shared_hidden", sublayer.shared_hidden}});
  }
  return json;
}

Json blocks_json(const InspectedStructure& structure) {
  Json blocks = Json::array();
  for (const InspectedBlock& block : structure.blocks) {
    Json sublayers = Json::array();
    for (const InspectedSublayer& sublayer : block.sublayers) sublayers.push_back(sublayer_json(sublayer));
    blocks.push_back({{"kind", block.kind},
                      {"stream", block.stream},
                      {"width", block.width},
                      {"parameters", block.parameters},
                      {"bytes", block.bytes},
                      {"input", block.input},
                      {"output", block.output},
                      {"sublayers", sublayers}});
  }
  return blocks;
}

Json notes_json(const InspectedStructure& structure) {
  Json notes = Json::array();
  for (const auto& [node, reason] : structure.notes) notes.push_back({{"node", node}, {"reason", reason}});
  return notes;
}

}  // namespace

Result<Inspection> inspect(const std::string& path) {
  Inspection result;
  OF_ASSIGN(const std::unique_ptr<Model> model, load_model(path, &result.files));
  result.path = path;
  result.producer = model->producer_name + (model->producer_version.empty() ? "" : " " + model->producer_version);
  result.ir_version = model->ir_version;
  result.opsets = model->opset_imports;
  result.metadata = model->metadata;
  for (const Value* value : model->graph().inputs())
    result.inputs.emplace_back(value->name(), to_string(value->type()));
  for (const Value* value : model->graph().outputs())
    result.outputs.emplace_back(value->name(), to_string(value->type()));
  std::set<const Value*> counted;
  for (const Graph* graph : model->graphs()) {
    count_nodes(*graph, result, counted);
    count_tensors(*graph, result);
  }
  std::stable_sort(result.largest.begin(), result.largest.end(),
                   [](const LargeTensor& a, const LargeTensor& b) { return a.bytes > b.bytes; });
  if (result.largest.size() > kLargest) result.largest.resize(kLargest);
  result.structure = inspect_structure(*model);
  return result;
}

std::string inspection_text(const Inspection& in) {
  std::string text = fmt::format("{}\n", in.path);
  const auto row = [&](std::string_view label, const std::string& content) {
    text += fmt::format("{:<11} {}\n", label, content);
  };
  row("size", fmt::format("{}{}", bytes_text(in.files.file_bytes + in.files.external_bytes),
                          in.files.external_bytes > 0
                              ? fmt::format(" ({} of it external, {} dead)", bytes_text(in.files.external_bytes),
                                            bytes_text(in.files.dead_bytes))
                              : ""));
  std::string opsets;
  for (const auto& [domain, version] : in.opsets) {
    opsets += fmt::format("{}{} {}", opsets.empty() ? "" : ", ", domain.empty() ? "ai.onnx" : domain, version);
  }
  row("format", fmt::format("IR {}, opset {}", in.ir_version, opsets));
  if (!in.producer.empty()) row("producer", in.producer);
  for (const auto& [name, type] : in.inputs) row("input", fmt::format("{}: {}", name, type));
  for (const auto& [name, type] : in.outputs) row("output", fmt::format("{}: {}", name, type));
  row("weights", fmt::format("{} numbers, {}", count_text(in.parameters), bytes_text(in.weight_bytes)));
  for (const auto& [type, bytes] : in.bytes_by_type) row("", fmt::format("{:<10} {}", type, bytes_text(bytes)));
  row("nodes", fmt::format("{}", in.nodes));
  std::vector<std::pair<std::string, std::int64_t>> operators(in.operators.begin(), in.operators.end());
  std::stable_sort(operators.begin(), operators.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [op, count] : operators) row("", fmt::format("{:>6} {}", count, op));
  for (const LargeTensor& tensor : in.largest) {
    row("tensor", fmt::format("{:>9}  {} {}", bytes_text(tensor.bytes), tensor.type, tensor.name));
  }
  for (const auto& [op, what] : in.quantizable) {
    row("quantizable", fmt::format("{} weights of {}, {} ({:.1f} %)", what.first, op, bytes_text(what.second),
                                   in.weight_bytes == 0 ? 0
                                                        : 100.0 * static_cast<double>(what.second) /
                                                              static_cast<double>(in.weight_bytes)));
  }
  for (const auto& [key, value] : in.metadata) row("metadata", fmt::format("{} = {}", key, value));
  return text + structure_text(in.structure, in.weight_bytes);
}

std::string inspection_json(const Inspection& in) {
  const auto ports = [](const auto& list) {
    Json json = Json::array();
    for (const auto& [name, type] : list) json.push_back({{"name", name}, {"type", type}});
    return json;
  };
  Json largest = Json::array(), quantizable = Json::object(), opsets = Json::object(), metadata = Json::object();
  for (const LargeTensor& t : in.largest) largest.push_back({{"name", t.name}, {"type", t.type}, {"bytes", t.bytes}});
  for (const auto& [op, what] : in.quantizable) quantizable[op] = {{"count", what.first}, {"bytes", what.second}};
  for (const auto& [domain, version] : in.opsets) opsets[domain.empty() ? "ai.onnx" : domain] = version;
  for (const auto& [key, value] : in.metadata) metadata[key] = value;
  const Json json = {{"version", 1},
                     {"path", in.path},
                     {"file_bytes", in.files.file_bytes},
                     {"external_bytes", in.files.external_bytes},
                     {"dead_bytes", in.files.dead_bytes},
                     {"ir_version", in.ir_version},
                     {"opsets", opsets},
                     {"producer", in.producer},
                     {"inputs", ports(in.inputs)},
                     {"outputs", ports(in.outputs)},
                     {"nodes", in.nodes},
                     {"operators", Json(in.operators)},
                     {"parameters", in.parameters},
                     {"weight_bytes", in.weight_bytes},
                     {"bytes_by_type", Json(in.bytes_by_type)},
                     {"largest", largest},
                     {"quantizable", quantizable},
                     {"blocks", blocks_json(in.structure)},
                     {"not_understood", notes_json(in.structure)},
                     {"metadata", metadata}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace onnxfold
