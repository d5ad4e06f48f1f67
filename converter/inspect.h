// What is in a model file, as text and JSON.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/onnx/onnx_file.h"

namespace onnxfold {

struct LargeTensor {
  std::string name, type;
  std::int64_t bytes = 0;
};

// One block of a residual stream as the structure view sees it.
struct InspectedSublayer {
  std::string kind;  // "attention", "cross attention", "feed-forward", "gated feed-forward", "mixture of experts"...
  std::int64_t heads = 0, kv_heads = 0, head_width = 0;  // attention
  std::int64_t hidden = 0;                               // feed-forward, or one expert
  std::int64_t experts = 0, chosen = 0;                  // mixture of experts
  std::int64_t shared_experts = 0, shared_hidden = 0;    // beside the chosen ones, for every token; of one of them
  bool rotary = false, causal = false;
};

struct InspectedBlock {
  std::string kind;  // "pre-norm", "post-norm", "parallel"...
  std::size_t stream = 0;
  std::int64_t width = 0, parameters = 0, bytes = 0;
  std::string input, output;  // names of stream values
  std::vector<InspectedSublayer> sublayers;
};

struct InspectedStructure {
  std::vector<InspectedBlock> blocks;
  std::vector<std::pair<std::string, std::string>> notes;  // node, why it was not understood
};

struct Inspection {
  std::string path, producer;
  LoadStats files;
  std::int64_t ir_version = 0;
  OpsetImports opsets;
  std::vector<std::pair<std::string, std::string>> inputs, outputs;  // name, type
  std::map<std::string, std::int64_t> operators;                     // "Gemm", "com.microsoft.Gelu"; subgraphs included
  std::int64_t nodes = 0, parameters = 0, weight_bytes = 0;
  std::map<std::string, std::int64_t> bytes_by_type;
  std::vector<LargeTensor> largest;  // ten at most
  // Weights of at least two axes that MatMul, Gemm and Gather read as constants, by operator: how many and how large.
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> quantizable;
  Metadata metadata;
  InspectedStructure structure;
};

Result<Inspection> inspect(const std::string& path);
std::string inspection_text(const Inspection& inspection);
std::string inspection_json(const Inspection& inspection);

// Blocks of all graphs of a model. Infers shapes first, which only adds types.
InspectedStructure inspect_structure(Model& model);
// Rows of a table, one line each, share of `weight_bytes` included; then the notes.
std::string structure_text(const InspectedStructure& structure, std::int64_t weight_bytes);

}  // namespace onnxfold
