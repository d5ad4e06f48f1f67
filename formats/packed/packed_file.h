// Packed models (.onnxz): a model and its external data in one smaller file, without loss. Layout: container.md.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "ir/result.h"

namespace onnxfold {

struct PackOptions {
  int threads = 1;         // chunks in work at a time; the bytes do not depend on it
  bool overwrite = false;  // false: invalid_argument when a target exists
  std::function<void(std::int64_t done, std::int64_t total)> progress;  // bytes of the unpacked files
};

struct PackStats {
  std::int64_t unpacked_bytes = 0, packed_bytes = 0;
  std::vector<std::string> files;  // names in the container
};

// Packs `folder`/`names`, the model first. Memory: some chunks of 256 KiB a thread. Written atomically. Errors: io,
// invalid_argument (a target that exists, a name that leaves the folder).
Result<PackStats> pack_files(const std::string& folder, const std::vector<std::string>& names,
                             const std::string& target, const PackOptions& options);

// Unpacks the model to `target` and the others beside it, under the names the model knows them by. All files appear
// together at the end; after an error none does. Errors: io, corrupt (naming file and chunk), unsupported (a later
// version), invalid_argument (a target that exists).
Result<PackStats> unpack_files(const std::string& packed, const std::string& target, const PackOptions& options);

}  // namespace onnxfold
