// Cleans up a model with the library: client IN.onnx OUT.onnx
#include <cstdio>

#include "converter/pipeline.h"
#include "formats/onnx/onnx_file.h"

namespace {
onnxfold::Result<std::int64_t> clean(const char* in, const char* out) {
  OF_ASSIGN(const auto model, onnxfold::load_model(in));
  OF_ASSIGN(const onnxfold::Recipe recipe, onnxfold::load_recipe("clean"));
  OF_TRY(onnxfold::run_pipeline(*model, recipe));
  OF_ASSIGN(const onnxfold::SaveStats saved, onnxfold::save_model(*model, out));
  return saved.file_bytes;
}
}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: client IN.onnx OUT.onnx\n"), 2;
  const auto bytes = clean(argv[1], argv[2]);
  if (!bytes) return std::fprintf(stderr, "client: %s\n", bytes.error().message.c_str()), 1;
  std::printf("wrote %lld bytes\n", static_cast<long long>(*bytes));
}
