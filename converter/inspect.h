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
};

Result<Inspection> inspect(const std::string& path);
std::string inspection_text(const Inspection& inspection);
std::string inspection_json(const Inspection& inspection);

}  // namespace onnxfold
