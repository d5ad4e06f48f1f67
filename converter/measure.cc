// What a report says about files and the process.
#include <fmt/format.h>
#include <sys/resource.h>
#include <xxhash.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "converter/compress.h"
#include "ir/mapped_file.h"

namespace onnxfold {

Result<std::string> hash_files(const std::vector<std::string>& paths) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  constexpr std::size_t kChunk = 16 << 20;
  for (const std::string& path : paths) {
    OF_ASSIGN(const auto file, MappedFile::open(path));
    for (auto rest = file->data(); !rest.empty();) {
      const auto chunk = rest.first(std::min(kChunk, rest.size()));
      XXH3_128bits_update(state.get(), chunk.data(), chunk.size());
      release_pages(chunk);
      rest = rest.subspan(chunk.size());
    }
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::int64_t predicted_writing_bytes(Model& model, const SaveOptions& options) {
  std::vector<std::int64_t> made;  // largest first
  for (const Graph* graph : model.graphs()) {
    for (const Value* value : graph->values()) {
      const Tensor* tensor = value->initializer() != nullptr ? value->initializer() : value->constant();
      if (tensor != nullptr && tensor->is_deferred()) made.push_back(making_bytes(*tensor));
    }
  }
  std::sort(made.begin(), made.end(), std::greater<>());
  std::int64_t together = 0;
  for (std::size_t i = 0; i < made.size() && i < static_cast<std::size_t>(std::max(options.threads, 1)); ++i) {
    if (i > 0 && together + made[i] > options.memory_budget) break;
    together += made[i];
  }
  return together;
}

std::int64_t weight_bytes(Model& model) {
  std::int64_t bytes = 0;
  for (const Graph* graph : model.graphs()) {
    for (const Value* value : graph->values()) {
      const Tensor* tensor = value->initializer() != nullptr ? value->initializer() : value->constant();
      if (tensor != nullptr) bytes += tensor->nbytes();
    }
  }
  return bytes;
}

std::int64_t node_count(Model& model) {
  std::int64_t count = 0;
  for (const Graph* graph : model.graphs()) count += static_cast<std::int64_t>(graph->node_count());
  return count;
}

}  // namespace onnxfold
