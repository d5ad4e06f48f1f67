#include "analysis/structure/unit_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "analysis/structure/correspondence.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

bool moves(const Node& node) {
  static const std::set<std::string> kMoves = {"Identity",  "Cast",    "Dropout", "Reshape", "Transpose",
                                               "Unsqueeze", "Flatten", "Expand",  "Squeeze"};
  return node.domain().empty() && kMoves.count(node.op_type()) != 0;
}

// Unknown types count as floating.
bool may_be_float(const Value* value) {
  if (const Tensor* tensor = parameter(value)) return is_float(tensor->dtype());
  return value->dtype() == DType::kUndefined || is_float(value->dtype());
}

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  a ^= b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2);
  a ^= a >> 30;
  a *= 0xbf58476d1ce4e5b9ULL;
  return a ^ (a >> 27);
}

std::uint64_t hash_text(std::string_view text) {
  std::uint64_t hash = 1469598103934665603ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return hash;
}

std::string shape_text(const Tensor& tensor) {
  Dims dims;
  std::copy_if(tensor.dims().begin(), tensor.dims().end(), std::back_inserter(dims), [](auto dim) { return dim != 1; });
  return fmt::format("constant [{}]", fmt::join(dims, ","));
}

bool is_scalar(const Value* value) {
  const Tensor* tensor = value == nullptr ? nullptr : parameter(value);
  return tensor != nullptr && tensor->size() == 1 && is_float(tensor->dtype());
}

// Biases that were learnt tell heads apart; a causal mask, which may stand in a table too, does not.
bool differs_by_head(const Value& mask, std::int64_t heads) {
  const auto& shape = mask.type().shape;
  if (!shape || shape->size() < 3) return false;
  const auto& dim = (*shape)[shape->size() - 3];
  return dim.known() && *dim.value == heads && heads > 1;
}

// Operators that say one thing in two ways.
std::string operator_text(const Node& node) {
  if (node.is("GlobalAveragePool")) return "ReduceMean";
  if (node.is("Split")) return "Slice";
  return node.op_type();
}

// Mul and Div by a number: the other operand.
const Value* scaled_operand(const Node& node, double& factor, Value*& constant) {
  const bool division = node.is("Div");
  if (!division && !node.is("Mul")) return nullptr;
  for (const std::size_t at : {std::size_t{1}, std::size_t{0}}) {
    if (!is_scalar(node.input(at)) || (division && at == 0)) continue;
    const auto number = scalar_constant(node.input(at));
    if (!number || !std::isfinite(*number) || *number == 0) continue;
    factor = division ? 1 / *number : *number;
    constant = division ? nullptr : node.input(at);
    return node.input(1 - at);
  }
  return nullptr;
}

}  // namespace

UnitView::UnitView(const Graph& graph, std::map<const Value*, std::size_t> ordinals, bool feed_forwards)
    : ordinals_(std::move(ordinals)),
      norms_(find_norms(graph)),
      linears_(find_linears(graph)),
      attentions_(find_attentions(graph, &notes_)),
      activations_(find_activations(graph)) {
  if (feed_forwards) feed_forwards_ = find_feed_forwards(graph);
  for (const Norm& norm : norms_) {
    norm_of_[norm.output] = &norm;
    if (norm.sum != nullptr) norm_of_sum_[norm.sum] = &norm;
  }
  for (const Linear& linear : linears_) linear_of_[linear.output] = &linear;
  for (const Attention& attention : attentions_) {
    attention_of_[attention.output] = &attention;
    for (const Projection* each : {&attention.k, &attention.v}) {
      if (each->present != nullptr) presents_.insert(each->present);
    }
  }
  for (const FeedForward& layer : feed_forwards_) feed_forward_of_[layer.output] = &layer;
  for (const ActivationMatch& activation : activations_) activation_of_[activation.output] = &activation;
}

bool UnitView::known(const Value* value) const {
  return norm_of_.count(value) != 0 || norm_of_sum_.count(value) != 0 || linear_of_.count(value) != 0 ||
         attention_of_.count(value) != 0 || feed_forward_of_.count(value) != 0 || activation_of_.count(value) != 0;
}

const Value* UnitView::behind_moves(const Value* value, double& scale, std::vector<Value*>& factors) const {
  while (!known(value) && value->producer() != nullptr && parameter(value) == nullptr) {
    const Node& node = *value->producer();
    double factor = 1;
    Value* constant = nullptr;
    const Value* next = scaled_operand(node, factor, constant);
    if (next != nullptr) {
      scale *= factor;
      factors.push_back(constant);
    } else if (moves(node) && node.input(0) != nullptr && may_be_float(node.input(0))) {
      next = node.input(0);
    }
    if (next == nullptr) break;
    value = next;
  }
  return value;
}

const Unit& UnitView::at(const Value* value) {
  const auto found = units_.find(value);
  if (found != units_.end()) return found->second;
  Unit unit = made(value);
  return units_.emplace(value, std::move(unit)).first->second;
}

Unit UnitView::made(const Value* value) {
  Unit unit;
  unit.value = value;
  if (!may_be_float(value)) {
    unit.kind = Unit::Kind::kIntegers;
    unit.inputs = inputs_behind(value);
    unit.text = "integers";
    return unit;
  }
  std::vector<Value*> factors;
  const Value* source = behind_moves(value, unit.scale, factors);
  if (std::abs(unit.scale - 1) > 1e-9) {
    unit.kind = Unit::Kind::kScale;
    unit.text = "factor";
    unit.operands = {source};
    if (factors.size() == 1) unit.factor = factors.front();
    return unit;
  }
  unit.scale = 1;
  unit.value = source;
  if (const Tensor* tensor = parameter(source)) {
    unit.kind = Unit::Kind::kConstant;
    unit.text = shape_text(*tensor);
    return unit;
  }
  if (const auto input = ordinals_.find(source); input != ordinals_.end()) {
    unit.kind = Unit::Kind::kInput;
    unit.inputs = {input->second};
    unit.text = "input";
    return unit;
  }
  if (const auto found = attention_of_.find(source); found != attention_of_.end()) return of_attention(*found->second);
  if (const auto found = feed_forward_of_.find(source); found != feed_forward_of_.end())
    return of_feed_forward(*found->second);
  if (const auto found = norm_of_.find(source); found != norm_of_.end()) {
    const Norm& norm = *found->second;
    unit.kind = Unit::Kind::kNorm;
    unit.norm = &norm;
    unit.text = norm.kind == Norm::Kind::kRms ? "RMSNorm" : "LayerNorm";
    // Some exporters add and normalise in one operator: the addends are the norm's own.
    unit.unordered = true;
    if (norm.skip != nullptr) {
      add_addends(norm.output, unit, true);
    } else {
      add_addends(norm.input, unit, true);
    }
    take_late_biases(unit);
    return unit;
  }
  if (const auto found = linear_of_.find(source); found != linear_of_.end()) {
    unit.kind = Unit::Kind::kLinear;
    unit.linear = found->second;
    unit.text = fmt::format("Linear {} -> {}", unit.linear->in, unit.linear->out);
    unit.operands = {unit.linear->input};
    return unit;
  }
  if (const auto found = activation_of_.find(source); found != activation_of_.end()) {
    unit.kind = Unit::Kind::kActivation;
    unit.text = std::string(name(found->second->kind));
    unit.operands = {found->second->input};
    return unit;
  }
  if (source->producer() == nullptr) {
    unit.text = "value '" + source->name() + "'";
    return unit;
  }
  const bool skips = norm_of_sum_.count(source) != 0;
  if (skips || source->producer()->is("Add") || source->producer()->is("Sum")) {
    unit.kind = Unit::Kind::kSum;
    unit.unordered = true;
    add_addends(source, unit, true);
    take_late_biases(unit);
    unit.text = fmt::format("sum of {}", unit.operands.size());
    return unit;
  }
  return of_node(*source->producer());
}

// Sums that nothing else reads are part of the sum around them.
void UnitView::add_addends(const Value* value, Unit& unit, bool first) {
  double scale = 1;
  std::vector<Value*> factors;
  const Value* source = value;
  if (first && norm_of_.count(value) == 0) source = behind_moves(value, scale, factors);
  const Norm* skip = nullptr;
  if (const auto found = norm_of_sum_.find(source); found != norm_of_sum_.end()) skip = found->second;
  if (const auto found = norm_of_.find(source); first && source == value && found != norm_of_.end())
    skip = found->second;
  if (first && skip != nullptr && skip->skip != nullptr) {
    for (const Value* each : {skip->input, skip->skip, skip->sum_bias}) {
      if (each != nullptr) add_addends(each, unit, false);
    }
    return;
  }
  const Node* node = source->producer();
  const bool plain = factors.empty() && node != nullptr && !known(source) && parameter(source) == nullptr &&
                     (node->is("Add") || node->is("Sum"));
  if (plain && (first || source->uses().size() == 1)) {
    for (const Value* each : node->inputs()) add_addends(each, unit, false);
    return;
  }
  unit.operands.push_back(value);
}

Linear* UnitView::ending(const Value* value) {
  const Unit& unit = at(value);
  if (unit.value->uses().size() != 1) return nullptr;
  const auto index = [](const auto& all, const auto* one) { return static_cast<std::size_t>(one - all.data()); };
  if (unit.kind == Unit::Kind::kLinear) return &linears_[index(linears_, unit.linear)];
  if (unit.kind == Unit::Kind::kFeedForward) return &feed_forwards_[index(feed_forwards_, unit.feed_forward)].down;
  if (unit.kind != Unit::Kind::kAttention) return nullptr;
  Attention& attention = attentions_[index(attentions_, unit.attention)];
  return attention.out ? &*attention.out : nullptr;
}

namespace {

// The node behind `value` that reads `vector`, which others may read too.
Node* reader_after(const Value* value, const Value* vector) {
  if (vector->uses().size() == 1) return vector->uses().front().node;
  for (int i = 0; i < 8 && value->uses().size() == 1; ++i) {
    Node* node = value->uses().front().node;
    const auto& inputs = node->inputs();
    if (std::find(inputs.begin(), inputs.end(), vector) != inputs.end()) return node;
    if (!moves(*node) && !node->is("Add") && !node->is("Sum")) return nullptr;
    value = node->output();
  }
  return nullptr;
}

}  // namespace

// A bias that is added behind the stream belongs to the Linear before it; attention's rather has none.
void UnitView::take_late_biases(Unit& unit) {
  for (std::size_t i = 0; i < unit.operands.size(); ++i) {
    const Value* vector = unit.operands[i];
    const Tensor* tensor = parameter(vector);
    if (tensor == nullptr || tensor->rank() != 1 || tensor->size() < 2) continue;
    bool taken = std::any_of(unit.operands.begin(), unit.operands.end(), [&](const Value* operand) {
      return late_biases_.count({vector, ending(operand)}) != 0;
    });
    for (const bool attention : {false, true}) {
      for (std::size_t j = 0; j < unit.operands.size() && !taken; ++j) {
        if ((at(unit.operands[j]).kind == Unit::Kind::kAttention) != attention) continue;
        Linear* linear = ending(unit.operands[j]);
        if (linear == nullptr || linear->bias != nullptr || linear->out != tensor->size()) continue;
        linear->bias = vector->graph()->find(vector->name());
        linear->bias_add = reader_after(at(unit.operands[j]).value, vector);
        taken = linear->bias != nullptr;
        if (taken) late_biases_.emplace(vector, linear);
      }
    }
    if (taken) unit.operands.erase(unit.operands.begin() + static_cast<std::ptrdiff_t>(i--));
  }
}

Unit UnitView::of_attention(const Attention& attention) {
  Unit unit;
  unit.kind = Unit::Kind::kAttention;
  unit.value = attention.output;
  unit.attention = &attention;
  unit.text = fmt::format("attention of {} heads ({} of keys) of {}{}", attention.heads, attention.kv_heads,
                          attention.head_width, attention.rotary ? ", rotary" : "");
  for (const Projection* each : {&attention.q, &attention.k, &attention.v}) {
    const Value* read = each->linear ? each->linear->input : each->source;
    if (read != nullptr) unit.operands.push_back(read);
  }
  if (attention.gate != nullptr) unit.operands.push_back(attention.gate);
  for (const Value* mask : attention.masks) {
    if (may_be_float(mask) && differs_by_head(*mask, attention.heads) && holds_weights(mask))
      unit.operands.push_back(mask);
  }
  return unit;
}

Unit UnitView::of_feed_forward(const FeedForward& layer) const {
  Unit unit;
  unit.kind = Unit::Kind::kFeedForward;
  unit.value = layer.output;
  unit.feed_forward = &layer;
  unit.text = fmt::format("{}feed-forward layer {} -> {} with {}", layer.gated() ? "gated " : "", layer.up.in,
                          layer.down.in, layer.activation ? name(layer.activation->kind) : "no activation");
  unit.operands = {layer.input};
  return unit;
}

Unit UnitView::of_node(const Node& node) {
  Unit unit;
  unit.value = node.output();
  unit.node = &node;
  unit.text = operator_text(node);
  unit.unordered = node.is("Mul") || node.is("Max") || node.is("Min");
  const Tensor* data = node.input(0) == nullptr ? nullptr : parameter(node.input(0));
  const bool rows = data != nullptr && is_float(data->dtype()) && data->rank() >= 2;
  // The first rows of a table, by Slice or by positions that no input tells, are the same.
  if (rows && node.is("Slice")) unit.text = "Gather";
  const bool table = data != nullptr && node.is("Gather") && (!rows || !inputs_behind(node.input(1)).empty());
  for (std::size_t i = 0; i < node.inputs().size(); ++i) {
    const Value* input = node.input(i);
    if (input == nullptr || (!may_be_float(input) && !(table && i == 1))) continue;
    const bool number = is_scalar(input) && !unit.unordered && !node.is("Sub") && !node.is("Div");
    if (!number) unit.operands.push_back(input);
  }
  return unit;
}

std::set<std::size_t> UnitView::inputs_behind(const Value* value) const {
  std::set<std::size_t> found;
  std::set<const Value*> seen;
  std::vector<const Value*> pending = {value};
  while (!pending.empty()) {
    const Value* next = pending.back();
    pending.pop_back();
    if (next == nullptr || !seen.insert(next).second || parameter(next) != nullptr) continue;
    if (const auto input = ordinals_.find(next); input != ordinals_.end()) found.insert(input->second);
    const Node* node = next->producer();
    if (node == nullptr || node->is("Shape") || node->is("Size")) continue;
    const bool shaped = node->is("Reshape") || node->is("Expand") || node->is("ConstantOfShape");
    for (std::size_t i = 0; i < node->inputs().size(); ++i) {
      if (!shaped || i == 0) pending.push_back(node->input(i));
    }
  }
  return found;
}

bool UnitView::holds_weights(const Value* value) {
  if (value == nullptr) return false;
  if (const Tensor* tensor = parameter(value)) {
    const auto& dims = tensor->dims();
    return is_float(tensor->dtype()) && dims.size() >= 3 && dims[dims.size() - 3] > 1;
  }
  // Shapes and positions hold none, whatever they are taken from.
  if (value->producer() == nullptr || !may_be_float(value)) return false;
  const auto found = weighty_.find(value);
  if (found != weighty_.end()) return found->second;
  weighty_[value] = false;
  const Node& node = *value->producer();
  const Tensor* table = node.is("Gather") ? parameter(node.input(0)) : nullptr;
  bool result = (table != nullptr && is_float(table->dtype()) && table->rank() >= 2) || linear_of_.count(value) != 0;
  for (const Value* input : node.inputs()) result = result || holds_weights(input);
  return weighty_[value] = result;
}

std::uint64_t UnitView::signature(const Value* value) {
  const auto found = signatures_.find(value);
  if (found != signatures_.end()) return found->second;
  signatures_[value] = 1;
  const Unit unit = at(value);
  std::uint64_t hash = hash_text(unit.text);
  for (const std::size_t input : unit.inputs) hash = mix(hash, input + 17);
  std::vector<std::uint64_t> operands;
  for (const Value* operand : unit.operands) operands.push_back(signature(operand));
  if (unit.unordered) std::sort(operands.begin(), operands.end());
  for (const std::uint64_t operand : operands) hash = mix(hash, operand);
  return signatures_[value] = hash;
}

}  // namespace onnxfold
