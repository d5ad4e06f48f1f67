#include "passes/reparam/attention/attention_path.h"

#include <algorithm>

#include "analysis/structure/head_layout.h"
#include "ir/match.h"

namespace onnxfold {
namespace {

constexpr int kMaxSteps = 60;
// Scores that are replaced by such a number or less weigh nothing beside any that are not.
constexpr double kHidden = -1e4;

bool contains(const std::vector<Node*>& nodes, const Node* node) {
  return std::find(nodes.begin(), nodes.end(), node) != nodes.end();
}

bool inference_dropout(const Node& node) {
  if (!node.is("Dropout")) return false;
  if (node.opset() < 12 || node.input(2) == nullptr) return true;
  return scalar_constant(node.input(2)) == 0.0;
}

bool refuse(std::string& why, std::string reason) {
  why = std::move(reason);
  return false;
}

Node* reader_of_operands(const Attention& attention, const Projection& projection) {
  if (attention.fused != nullptr) return attention.fused;
  return &projection == &attention.v ? attention.context_product : attention.score_product;
}

// The operand of `node` that the scores come through: what the attention itself made.
Value* scores_of(const Node& node, const Attention& attention) {
  for (Value* input : node.inputs()) {
    if (input != nullptr && input->producer() != nullptr && contains(attention.nodes, input->producer())) return input;
  }
  return nullptr;
}

bool fused_without_mask(const Attention& attention) {
  const Node& node = *attention.fused;
  if (node.is("MultiHeadAttention", "com.microsoft")) return node.input(4) == nullptr && node.input(5) == nullptr;
  return node.is("Attention") && node.input(3) == nullptr;
}

}  // namespace

bool read_by(const Value& value, const std::vector<Node*>& nodes) {
  return std::all_of(value.uses().begin(), value.uses().end(), [&](const Use& use) {
    return use.node != nullptr && (use.node->is("Shape") || use.node->is("Size") || contains(nodes, use.node));
  });
}

bool plain_projection(const Attention& attention, const Projection& projection, std::string& why) {
  if (projection.norm) return refuse(why, "a norm stands between projection and product");
  if (projection.rotary) return refuse(why, "a rotary embedding stands between projection and product");
  if (projection.past != nullptr || projection.present != nullptr) return refuse(why, "a cache keeps what it projects");
  if (!projection.scale) return refuse(why, "an unknown factor stands between projection and product");
  std::vector<Node*> readers = projection.nodes;
  readers.push_back(reader_of_operands(attention, projection));
  for (const Node* node : projection.nodes) {
    const bool known =
        moves_elements(*node) || node->is("Cast") || node->is("Mul") || node->is("Div") || inference_dropout(*node);
    if (!known) return refuse(why, node->label() + " stands between projection and product");
    for (const Value* output : node->outputs()) {
      if (output != nullptr && !read_by(*output, readers))
        return refuse(why, "something else reads '" + output->name() + "'");
    }
  }
  const Value& made = *projection.linear->output;
  return read_by(made, readers) || refuse(why, "something else reads '" + made.name() + "'");
}

bool shift_invariant(const Attention& attention, std::string& why) {
  if (attention.softcap != 0) return refuse(why, "the scores are capped");
  if (!attention.scale) return refuse(why, "the scores are multiplied by an unknown factor");
  if (attention.fused != nullptr) {
    const Node& node = *attention.fused;
    if (node.is("GroupQueryAttention", "com.microsoft") || node.attr_int("do_rotary", 0) != 0) {
      return refuse(why, "the operator may turn the keys");
    }
    return (node.output(3) == nullptr || node.output(3)->uses().empty()) ||
           refuse(why, "the scores are read elsewhere");
  }
  Value* at = attention.softmax->input(0);
  for (int i = 0; i < kMaxSteps; ++i) {
    Node* node = at->producer();
    if (node == nullptr || !read_by(*at, attention.nodes)) return refuse(why, "the scores are read elsewhere");
    if (node == attention.score_product) return true;
    const bool hides = node->is("Where") && attention.mask_value <= kHidden;
    const bool known = node->is("Add") || node->is("Mul") || node->is("Div") || node->is("Cast") ||
                       node->is("Reshape") || node->is("Squeeze") || node->is("Unsqueeze") || node->is("Identity");
    if (!known && !hides) return refuse(why, node->label() + " stands between product and Softmax");
    at = scores_of(*node, attention);
    if (at == nullptr) return refuse(why, "the scores cannot be followed");
  }
  return false;
}

bool rows_sum_to_one(const Attention& attention, std::string& why) {
  if (attention.fused != nullptr) {
    return fused_without_mask(attention) || refuse(why, "the operator may hide all keys of a row");
  }
  Value* at = attention.context_product->input(0);
  for (int i = 0; i < kMaxSteps; ++i) {
    const Node* node = at->producer();
    if (node == attention.softmax) return true;
    const bool known = node != nullptr && (node->is("Cast") || node->is("Identity") || node->is("Reshape") ||
                                           node->is("Squeeze") || node->is("Unsqueeze") || inference_dropout(*node));
    if (!known) return refuse(why, "the probabilities are changed before the product");
    at = node->input(0);
  }
  return false;
}

bool plain_output(const Attention& attention, std::string& why) {
  if (!attention.out) return refuse(why, "no Linear reads the context");
  if (attention.inner_norm || attention.gate != nullptr) return refuse(why, "the context is normalized or gated");
  Value* at = attention.context;
  for (int i = 0; i < kMaxSteps; ++i) {
    std::vector<Node*> readers = attention.nodes;
    if (!read_by(*at, readers)) return refuse(why, "something else reads the context");
    if (at == attention.out->input) return true;
    Node* next = nullptr;
    for (const Use& use : at->uses()) {
      if (!use.node->is("Shape") && !use.node->is("Size")) next = use.node;
    }
    const bool known = next != nullptr && (moves_elements(*next) || next->is("Cast") || inference_dropout(*next));
    if (!known) return refuse(why, "the context is changed before the output Linear");
    at = next->output();
  }
  return false;
}

}  // namespace onnxfold
