// Attention: softmax(scale * q k^T + masks) v with its projections, whatever its spelling.
//
// Found from the Softmax (or a fused operator) both ways: forward through the product with v, Transpose and Reshape to
// the output Linear; backward through masks, scale and the product of q and k^T, then through Transpose, Reshape (of
// constants or shape arithmetic), rotary embedding, norms of q and k, key-value caches and repeated heads to the
// Linears. Fused operators: com.microsoft Attention, MultiHeadAttention, GroupQueryAttention; ai.onnx Attention.
// Types must have been inferred: dimensions come from them. Nothing is required of a part that was not understood
// beyond what the struct says: an absent Linear means that something else stands there.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/structure/linear.h"
#include "analysis/structure/norm.h"
#include "analysis/structure/note.h"
#include "ir/graph.h"

namespace onnxfold {

// Where q, k or v comes from. Element d of head h is column offset + h * head_stride + d * element_stride of the
// Linear (and of packed_weight): fused projections share one Linear and differ in these.
struct Projection {
  std::optional<Linear> linear;  // none: q, k or v is made by something else, which makes `source`
  Value* source = nullptr;       // linear->output when there is one
  Value* operand = nullptr;      // what enters the product (of k: before or after its transpose, as the graph has it)
  std::int64_t offset = 0, heads = 0, head_stride = 0, width = 0, element_stride = 1;
  std::int64_t repeats = 1;         // repeat-kv: each head stands that many times side by side
  std::optional<Norm> norm;         // per head or of all heads, between Linear and product
  bool rotary = false;              // rotary embedding in the chain
  std::vector<Value*> tables;       // its cos and sin
  std::optional<double> scale = 1;  // scalar factors in the chain, multiplied; none when one is not known
  Value* past = nullptr;            // key-value cache joined here: the graph's value before...
  Value* present = nullptr;         // ...and after the Concat
  std::vector<Node*> nodes;         // between Linear and product, in topological order
};

struct Attention {
  Projection q, k, v;
  std::optional<Linear> out;  // none: the context does not end in a Linear
  Value* input = nullptr;     // read by q's Linear (its source when there is none)
  Value* kv_input = nullptr;  // read by k's Linear; equals `input` in self attention
  Value* output = nullptr;    // of the output Linear; the context when there is none
  Value* context = nullptr;   // product of probabilities and v, or the fused operator's output
  std::int64_t heads = 0, kv_heads = 0, head_width = 0, value_width = 0;
  std::optional<double> scale;  // factor on q k^T in all, wherever it stands; none when it is no known scalar
  double softcap = 0;           // c of c * tanh(scores / c), 0 when there is none
  std::vector<Value*> masks;    // added to the scores or chosen by Where (then: the condition)
  double mask_value = 0;        // what Where puts in the place of masked scores; 0 when masks are added
  bool causal = false;          // an attribute says so, or a mask is made with a triangle of positions
  bool rotary = false;
  bool cross = false;               // k and v come from another value than q
  Value* gate = nullptr;            // multiplied to the context before the output Linear
  std::optional<Norm> inner_norm;   // between context and output Linear
  Node* fused = nullptr;            // the fused operator
  Value* packed_weight = nullptr;   // com.microsoft Attention: [in, q + k + v] inside the operator
  Value* packed_bias = nullptr;     // ...and of MultiHeadAttention: added to q, k and v inside the operator
  Node* score_product = nullptr;    // q k^T; null when fused
  Node* softmax = nullptr;          // null when fused
  Node* context_product = nullptr;  // null when fused
  std::vector<Node*> nodes;         // all of it with its Linears, in topological order; masks and tables excluded

  bool separate() const;  // q, k, v are Linears of their own, each used for nothing else
  bool packed() const;    // q, k, v are slices of one Linear's (or packed weight's) columns
};

// All of a graph in topological order of their softmax. Notes say of every Softmax that feeds a product (or fused
// operator) why it was not understood.
std::vector<Attention> find_attentions(const Graph& graph, std::vector<StructureNote>* notes = nullptr);
// Only softmax, the two products, context, masks, scale and softcap between them and their nodes, of every Softmax over
// the last axis that stands between two products: whatever makes q, k and v.
std::vector<Attention> find_attention_products(const Graph& graph);

}  // namespace onnxfold
