// Memory of arrays, kept for reuse while a model runs: fresh pages from the system cost more than most kernels.
#pragma once

#include <cstddef>
#include <memory>

namespace onnxfold {

// Uninitialised memory, 64-byte aligned; goes back to the pool when the last copy is dropped. Throws std::bad_alloc,
// also for more bytes than the machine has.
std::shared_ptr<void> pooled_memory(std::size_t bytes);
// Most bytes one array may take: the memory of the machine.
std::size_t memory_limit();
// Gives memory nobody uses back to the system.
void release_pooled_memory();

}  // namespace onnxfold
